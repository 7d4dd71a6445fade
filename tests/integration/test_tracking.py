"""One tracked run per artefact, offline where no key is configured, always finished."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.trackers import rows_of, server, start_message

from speechforget import pipeline
from speechforget.store import read_done
from speechforget.tracking import loggers, mirror, mirror_process
from speechforget.tracking.loggers import Run

READER = Path(__file__).parents[3] / "shared" / "tools" / "read_wandb.py"
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


def read_run(folder: Path) -> dict[str, Any]:
    """The only offline run of an artefact."""
    if not READER.exists():
        pytest.skip("the reader of offline W&B files is not here")
    spec = importlib.util.spec_from_file_location("read_wandb", READER)
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return reader.load(path)


def test_runs_hold_curves_table_and_plot(tracked: Path) -> None:
    found = {}
    for stage in STAGES:
        found[stage] = read_run(next((tracked / stage).glob("*/DONE")).parent)
    assert {run["run"]["group"] for run in found.values()} == {"folder-word-tcresnet"}
    assert all(run["kinds"].get("exit") == 1 for run in found.values())
    keys = {stage: json.loads(next((tracked / stage).glob("*/DONE")).read_text())["key"] for stage in STAGES}
    assert all(found[stage]["run"]["id"] == keys[stage][:32] for stage in STAGES)
    for stage in ("original", "oracle"):
        curve = [step["train/loss"] for step in found[stage]["history"] if "train/loss" in step]
        assert len(curve) == 2 and curve[-1] < curve[0]
        assert any("validation/accuracy" in step for step in found[stage]["history"])
        assert [step["epoch"] for step in found[stage]["history"]] == [0, 1]
    assert any("unlearn/forget_loss" in step for step in found["unlearned"]["history"])
    assert found["result"]["summary"]["comparison/_type"] == "table-file"
    assert found["result"]["summary"]["comparison plot/count"] == 1
    (table,) = tracked.glob("result/*/wandb/offline-run-*/files/media/table/*.json")
    columns = json.loads(table.read_text())["columns"]
    assert columns[:4] == ["model", "metric", "value", "low"]


class Both:
    """Shows a run in CSV and in TensorBoard."""

    def __init__(self, run: Run) -> None:
        self.trackers = [loggers.csv_logger(run), loggers.tensorboard_logger(run)]

    def __getattr__(self, call: str) -> Callable[..., None]:
        return lambda *arguments: [getattr(tracker, call)(*arguments) for tracker in self.trackers]


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
    found = read_run(tmp_path)
    steps = [(row["epoch"], row["trainer/global_step"]) for row in found["history"]]
    assert steps == [(0, 0), (1, 9), (2, 18), (3, 27)]
    assert len(found["run"]["tags"][0]) == 64 and found["kinds"]["exit"] == 1


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
