"""One tracked run per artefact, offline where no key is configured, always finished."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.trackers import rows_of, server, start_message

from speechforget import pipeline
from speechforget.cli import store
from speechforget.stages.tracked import MOST_SOUNDS
from speechforget.store import read_done
from speechforget.tracking import loggers, mirror, mirror_process
from speechforget.tracking.curves import read_curve
from speechforget.tracking.tracker import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from tracking_keys import KEYS, described, plain
from wandb_files import OfflineRun, read_run

STAGES = ("original", "oracle", "unlearned", "result")
SHORT = ["train.epochs=2", "evaluation=paper"]


@pytest.fixture(scope="module")
def tracked(command, small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    arguments = [*(override for override in small if override != "logger=none"), *SHORT]
    empty = {
        "WANDB_MODE": None,
        "WANDB_API_KEY": None,
        "NETRC": str(folder / "none"),
        "WANDB_CONFIG_DIR": str(folder / "none"),
    }
    run = command(*arguments, f"output={folder}", env=empty)
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stderr.splitlines() if "wandb sync" in line]
    assert len(said) == 1 and "offline" in said[0]
    return folder


def test_each_artefact_has_one_offline_run(tracked: Path) -> None:
    for stage in STAGES:
        assert len(list(tracked.glob(f"{stage}/*/wandb/offline-run-*/*.wandb"))) == 1, stage


def run_in(folder: Path) -> OfflineRun:
    """Read the only offline run of an artefact."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_run(path)


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a history without what W&B adds to it."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def check_runs(output: Path) -> list[OfflineRun]:
    """Check that each model and each result is one run, which ended, with every row of its curve once; return them."""
    found = []
    for done in [path for stage in STAGES for path in output.glob(f"{stage}/*/DONE")]:
        run, curve = run_in(done.parent), read_curve(done.parent)
        assert run.ended and run.run["id"] == json.loads(done.read_text())["key"][:32]
        assert run.run["job_type"] == done.parents[1].name and run.run["job_type"] in run.run["tags"]
        steps = [row["_step"] for row in run.history]
        assert steps == list(range(len(steps)))
        if run.run["job_type"] != "result":
            assert [numbers(row) for row in run.history] == [
                {"trainer/global_step" if name == "step" else name: value for name, value in row.items()}
                for row in curve
            ]
        found.append(run)
    assert len(found) == len(list(output.glob("*/*/wandb/*run-*"))) == len({run.run["id"] for run in found})
    return found


def test_runs_hold_curves_table_and_plot(tracked: Path) -> None:
    found = {run.run["job_type"]: run for run in check_runs(tracked)}
    assert set(found) == set(STAGES) and {run.run["group"] for run in found.values()} == {"folder-word-tcresnet"}
    for stage in ("original", "oracle"):
        curve = [step["train/loss"] for step in found[stage].history]
        assert len(curve) == 2 and curve[-1] < curve[0]
        assert any("validation/accuracy" in step for step in found[stage].history)
    assert any("unlearn/forget_loss" in step for step in found["unlearned"].history)
    assert found["result"].summary["comparison/_type"] == "table-file"
    assert found["result"].summary["comparison plot/count"] == 1
    (table,) = tracked.glob("result/*/wandb/offline-run-*/files/media/table/comparison_*.json")
    columns = json.loads(table.read_text())["columns"]
    assert columns[:4] == ["model", "metric", "value", "low"]


def test_a_result_shows_the_curve_of_its_method_beside_the_oracle(tracked: Path) -> None:
    """The last row is the unlearned model, the level is the oracle, and both are numbers of the comparison."""
    (folder,) = tracked.glob("result/*")
    told = json.loads((folder / "result.json").read_text())["comparison"]
    run = run_in(folder)
    rows = [numbers(row) for row in run.history if "pass/number" in row]
    (curve,) = (read_curve(path) for path in tracked.glob("unlearned/*"))
    assert [row["pass/number"] for row in rows] == list(range(len(curve) + 1))
    assert [row["pass/forget_loss"] for row in rows[1:]] == [row["forget/loss"] for row in curve]
    for name in ("forget", "retain", "validation"):
        ends = {"original": rows[0][f"pass/{name}_accuracy"], "unlearned": rows[-1][f"pass/{name}_accuracy"]}
        for model, value in {**ends, "oracle": rows[0][f"pass/{name}_accuracy_oracle"]}.items():
            assert value == pytest.approx(told[model][f"accuracy_{name}"]["value"]), (name, model)
        assert len({row[f"pass/{name}_loss_oracle"] for row in rows}) == 1
    for model, entries in told.items():
        for metric, entry in entries.items():
            assert run.summary.get(f"{model}/{metric}") == entry["value"], (model, metric)


def test_what_was_made_of_what_can_be_followed(tracked: Path) -> None:
    made, used = {}, []
    for run in check_runs(tracked):
        for artifact in (each for each in run.artifacts if each.type in {"model", "request"}):
            files = {(entry.path, entry.ref, entry.digest) for entry in artifact.manifest.contents}
            assert all(entry.ref and not entry.local_path for entry in artifact.manifest.contents)
            if artifact.use_after_commit:
                used.append((run.run["job_type"], artifact.name, files))
            else:
                made[artifact.name] = files
    assert {name.partition("-")[0] for name in made} == {"original", "oracle", "unlearned"}
    requests = [name for _, name, _ in used if name.startswith("request-")]
    assert len(requests) == 1
    assert all(made[name] == files for _, name, files in used if name not in requests)
    links = {(stage, name.partition("-")[0]) for stage, name, _ in used}
    assert links == {("unlearned", "original"), *(("result", name) for name in ("request", *STAGES[:3]))}


def test_every_key_is_in_the_table(tracked: Path) -> None:
    logged = set().union(*(plain(run.keys) for run in check_runs(tracked)))
    assert not [name for name in logged if described(name) is None]
    named = {key.name for key in KEYS if not key.needs} - {"missing/<name>", "notes"}
    assert named <= {key.name for name in logged if (key := described(name))}


class Both:
    """Shows a run in CSV and in TensorBoard."""

    def __init__(self, run: Run) -> None:
        self.trackers = [loggers.csv_logger(run), loggers.tensorboard_logger(run)]

    def __getattr__(self, call: str) -> Callable[..., None]:
        return lambda *arguments: [getattr(tracker, call)(*arguments) for tracker in self.trackers]


@pytest.mark.slow
def test_the_curve_is_part_of_the_artefact_wherever_it_is_shown(tracked: Path, configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path}", *SHORT)
    config["logger"] = {"_target_": f"{__name__}.Both"}
    try:
        pipeline.run(config)
    finally:
        mirror_process.close_mirror()
    for done in tracked.glob("*/*/DONE"):
        one, other = read_done(done.parent), read_done(tmp_path / done.parent.relative_to(tracked))
        assert one and other and one["files"].keys() == other["files"].keys()
        assert one["files"].get("curves.csv") == other["files"].get("curves.csv")
    (curve,) = tmp_path.glob("original/*/curves.csv")
    assert (curve.parent / "csv" / "metrics.csv").read_text() == curve.read_text()
    assert len(pd.read_csv(curve)["train/loss"].dropna()) == 2
    assert len(list(tmp_path.glob("original/*/tensorboard/events*"))) == 1
    assert len(list(tmp_path.glob("result/*/tensorboard/events*"))) == 1


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_is_one_run(tmp_path: Path) -> None:
    """All rows are sent again, and none appears twice."""
    files = "wandb/offline-run-*/*.wandb"
    for epochs in (2, 4):
        shown = mirror_process.Mirror()
        for message in (start_message(tmp_path, "wandb"), *rows_of(epochs)):
            shown.send(message)
        if epochs == 4:
            shown.send({"do": "finish", "failed": False})
            shown.close()
        while not list(tmp_path.glob(files)):
            time.sleep(0.05)
        if epochs == 2:
            os.killpg(shown.process.pid, signal.SIGKILL)
            shown.process.wait()
    assert len(list(tmp_path.glob(files))) == 1
    found = run_in(tmp_path)
    steps = [(row["epoch"], row["trainer/global_step"]) for row in found.history]
    assert steps == [(0, 0), (1, 9), (2, 18), (3, 27)]
    assert len(found.run["tags"][0]) == 64 and found.ended


@pytest.mark.parametrize("key", ["short", "not a key\u2028"])
def test_an_unusable_key_leaves_an_offline_run_and_one_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    said: list[str] = []
    screen = mirror.Screen(said.append)
    for number in range(2):
        screen.receive(start_message(tmp_path / str(number), "wandb", mode="online"))
        screen.receive({"do": "finish", "failed": False})
        assert len(list((tmp_path / str(number)).glob("wandb/offline-run-*"))) == 1
    assert len(said) == 1 and "wandb sync" in said[0]


def test_a_run_does_not_wait_for_a_tracker_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(mirror_process, "SECONDS_TO_WRITE", 0.2)
    monkeypatch.setattr(mirror_process, "MIRROR", ["sleep", "600"])
    hanging = mirror_process.Mirror()
    for number in range(1000):  # more than a pipe holds
        hanging.send({"do": "point", "number": number, "row": {"loss": "x" * 1000}})
    hanging.close()
    assert hanging.process.returncode == -signal.SIGKILL and "did not accept everything" in caplog.text


KILLED = """
import os, signal, sys
from speechforget.tracking.mirror_process import Mirror
mirror = Mirror()
print(mirror.process.pid, flush=True)
mirror.send({"do": "nothing"})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_tracker_ends_with_the_process_that_it_is_for() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    child, until = Path("/proc") / str(int(killed.stdout)), time.monotonic() + 60

    def runs() -> bool:
        with suppress(FileNotFoundError):
            return "Z" not in (child / "stat").read_text().rpartition(")")[2][:3]
        return False

    while runs() and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs()


SWEEPS = {
    "one process": ["-m", "seed=0,1"],
    "several processes": ["-m", "seed=0,1", "launch=joblib", "launch.jobs_at_once=2"],
    "two ranks": ["trainer.devices=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SWEEPS))
def test_each_artefact_is_one_run_however_jobs_run(
    kind: str, command: Callable, small: list[str], tmp_path: Path
) -> None:
    """A sweep shares what its jobs have in common, and a second call adds nothing."""
    words = [*(override for override in small if override != "logger=none"), *SHORT, f"output={tmp_path}"]
    for _ in range(2 if kind == "one process" else 1):
        run = command(*SWEEPS[kind], *words)
        assert run.returncode == 0, run.stderr
        runs = check_runs(tmp_path)
    results = 1 if kind == "two ranks" else 2
    counts = Counter(run.run["job_type"] for run in runs)
    assert counts == dict.fromkeys(STAGES, results)


@pytest.mark.slow
def test_recordings_and_lists_are_shown_if_asked_and_a_purge_finds_them(
    command: Callable, small: list[str], tmp_path: Path
) -> None:
    asked = ["logger.audio=true", "logger.artifacts=files", "logger.names=open", "task=sample", "task.percent=10"]
    run = command(*(word for word in small if word != "logger=none"), *SHORT, *asked, f"output={tmp_path}")
    assert run.returncode == 0, run.stderr
    (folder,) = tmp_path.glob("result/*")
    shown = run_in(folder)
    kept = list((folder / "wandb").rglob("*"))
    sounds = [path for path in kept if path.is_file() and path.read_bytes()[:4] == b"RIFF"]
    assert "tables/audio" in plain(shown.keys) and 0 < len(sounds) <= 2 * MOST_SOUNDS
    (request,) = (each for each in shown.artifacts if each.type == "request")
    ids = (folder / "forget.txt").read_text().split()
    (entry,) = request.manifest.contents
    assert json.loads(Path(entry.local_path).read_text())["ids"]["forget"] == ids
    (model,) = (each for each in shown.artifacts if each.name.startswith("unlearned-"))
    assert {Path(entry.local_path).parent.parent.name for entry in model.manifest.contents} == {"unlearned"}
    assert store.main(["purge", "--output", str(tmp_path), "--request", str(folder), "--yes"]) == 0
    ledger = json.loads((folder / "purge.json").read_text())
    assert ledger["found"] == [] and not any(path.exists() for path in sounds)
    (told,) = (each["why"] for each in ledger["unknown"] if "W&B" in each["what"])
    assert "logger.audio=true" in told and "logger.artifacts=files" in told


GUARD = """
import socket
def refuse(self, address, *_):
    raise OSError("the network is shut")
for name in ("connect", "connect_ex"):
    inner = getattr(socket.socket, name)
    def connect(self, address, inner=inner):
        return (inner if self.family == socket.AF_UNIX else refuse)(self, address)
    setattr(socket.socket, name, connect)
"""


@pytest.mark.slow
def test_no_tracker_makes_a_run_wait_or_fail(command: Callable, small: list[str], tmp_path: Path) -> None:
    """Without a network, or with a server that refuses, fails or hangs: the same artefacts, in about the same time."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    key = {"WANDB_MODE": None, "WANDB_API_KEY": "a" * 40, "WANDB_CONFIG_DIR": str(tmp_path)}
    tracked = [*(override for override in small if override != "logger=none")]

    def timed(name: str, arguments: list[str], **environment: str | None) -> tuple[float, dict[str, Any]]:
        started = time.monotonic()
        run = command(*arguments, f"output={tmp_path / name}", f"cache={tmp_path / 'cache'}", env=environment)
        took = time.monotonic() - started
        assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
        assert name == "quiet" or sum("offline" in line for line in run.stderr.splitlines()) == 1, run.stderr
        held = {
            str(done.parent.relative_to(tmp_path / name)): read_done(done.parent)
            for done in (tmp_path / name).glob("*/*/DONE")
        }
        same = {"weights.safetensors", "curves.csv", "inputs.json", "logits.npy"}
        return took, {
            folder: {file: record["files"].get(file) for file in same} for folder, record in held.items() if record
        }

    timed("quiet", small)  # decodes, and loads what the others find loaded
    (tmp_path / "quiet").rename(tmp_path / "first")
    took, artefacts = timed("quiet", small)
    assert len(artefacts) == 8
    for answer in (401, 500, None):
        with server(answer) as address:
            seconds, found = timed(str(answer), tracked, **key, WANDB_BASE_URL=address)
        assert found == artefacts and seconds < 2 * took + 5, answer
    guarded = os.pathsep.join([str(tmp_path / "guard"), os.environ.get("PYTHONPATH", "")])
    (tmp_path / "quiet").rename(tmp_path / "second")
    took, _ = timed("quiet", small, PYTHONPATH=guarded)  # a new interpreter, as below
    seconds, found = timed("shut", tracked, **key, PYTHONPATH=guarded)
    assert found == artefacts and seconds < 2 * took + 5  # twice, as cores may be shared
