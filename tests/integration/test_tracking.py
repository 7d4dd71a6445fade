"""One tracked run per artefact, offline where no key is configured, always finished."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechforget.errors import UserError
from speechforget.store import read_done
from speechforget.tracking import loggers, mirror
from speechforget.tracking.curves import Curve, table
from speechforget.tracking.loggers import Run, log_comparison, track, wandb_logger
from speechforget.tracking.wandb_settings import can_log_in, project_name, shortened, told_mode

READER = Path(__file__).parents[3] / "shared" / "tools" / "read_wandb.py"
STAGES = ("original", "oracle", "unlearned", "result")


@pytest.fixture(scope="module")
def tracked(command, small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    arguments = [override for override in small if override != "logger=none"]
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
        assert len(curve) == 4 and curve[-1] < curve[0]
        assert any("validation/accuracy" in step for step in found[stage]["history"])
        assert [step["epoch"] for step in found[stage]["history"]] == [0, 1, 2, 3]
    assert any("unlearn/forget_loss" in step for step in found["unlearned"]["history"])
    assert found["result"]["summary"]["comparison/_type"] == "table-file"
    assert found["result"]["summary"]["comparison plot/count"] == 1
    (table,) = tracked.glob("result/*/wandb/offline-run-*/files/media/table/*.json")
    columns = json.loads(table.read_text())["columns"]
    assert columns[:4] == ["model", "metric", "value", "low"]


def test_the_curve_is_part_of_the_artefact_wherever_it_is_shown(tracked: Path, command, small, tmp_path: Path) -> None:
    for name in ("csv", "tensorboard"):
        place = tmp_path / name
        run = command(*small, f"output={place}", f"logger={name}")
        assert run.returncode == 0, run.stderr
        for done in tracked.glob("*/*/DONE"):
            one, other = read_done(done.parent), read_done(place / done.parent.relative_to(tracked))
            assert one and other and one["files"].keys() == other["files"].keys()
            assert one["files"].get("curves.csv") == other["files"].get("curves.csv")
    (curve,) = (tmp_path / "csv").glob("original/*/curves.csv")
    assert (curve.parent / "csv" / "metrics.csv").read_text() == curve.read_text()
    assert len(pd.read_csv(curve)["train/loss"].dropna()) == 4
    assert len(list((tmp_path / "tensorboard").glob("original/*/tensorboard/events*"))) == 1
    assert len(list((tmp_path / "tensorboard").glob("result/*/tensorboard/events*"))) == 1


def make_run(folder: Path) -> Run:
    return Run(folder, "k" * 64, "name", "group", "original", ["tag"], {"seed": 0})


def test_online_without_a_key_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    assert not can_log_in()
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(make_run(tmp_path), "project", None, "online")
    with pytest.raises(UserError, match=r"logger\.mode"):
        wandb_logger(make_run(tmp_path), "project", None, "onlin")


def test_keys_are_found_where_wandb_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "netrc").write_text("machine wandb.example.org\n  login user\n  password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert can_log_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert not can_log_in()


class Broken:
    """A tracker that fails at its first row."""

    calls: list[str] = []  # noqa: RUF012

    def point(self, number: int, row: Mapping[str, float]) -> None:
        self.calls.append("point")
        raise OSError("nowhere to be seen")

    def finish(self, failed: bool) -> None:
        self.calls.append("finish")


def broken_logger(run: Run) -> Broken:
    return Broken()


def test_a_tracker_that_fails_is_one_line_and_is_told_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with track({"_target_": "test_tracking.broken_logger"}, make_run(tmp_path)) as tracker:
        curve = Curve(tmp_path, tracker)
        for epoch in range(3):
            curve.add({"epoch": epoch})
    assert caplog.text.count("nowhere to be seen") == 1 and Broken.calls == ["point"]
    assert (tmp_path / "curves.csv").read_text() == "epoch\n0\n1\n2\n"


def test_a_tracker_is_finished_also_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "_open_mirror", lambda: SimpleNamespace(send=told.append))
    for error in (None, ZeroDivisionError, KeyboardInterrupt):
        told.clear()
        options = {"_target_": "speechforget.tracking.loggers.tensorboard_logger"}
        with pytest.raises(error) if error else nullcontext(), track(options, make_run(tmp_path)) as tracker:
            assert tracker is not None
            tracker.point(0, {"loss": 1.0})
            if error:
                raise error
        assert [message["do"] for message in told] == ["start", "point", "finish"] and told[-1]["failed"] == bool(error)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["epoch", "step", "loss", "a,b", 'q"']), st.floats(allow_nan=False), min_size=1
        ),
        max_size=6,
    )
)
def test_a_table_holds_each_row_once(rows: list[dict[str, float]]) -> None:
    import csv
    import io

    read = list(csv.DictReader(io.StringIO(table(rows))))
    assert [{name: float(value) for name, value in row.items() if value} for row in read] == rows


def start_message(folder: Path, tracker: str, **changes: Any) -> dict[str, Any]:
    run = {
        "folder": str(folder),
        "key": "k" * 64,
        "name": "n" * 200,
        "group": "g" * 200,
        "stage": "original",
        "tags": ["t" * 77],
        "config": {},
    }
    return {"do": "start", "tracker": tracker, "project": "p", "entity": None, "mode": "offline", **run, **changes}


@pytest.mark.parametrize(
    ("tracker", "sight"), [("wandb", "wandb/offline-run-*/*.wandb"), ("tensorboard", "tensorboard/events*")]
)
def test_a_run_that_was_killed_and_resumed_is_one_run(tracker: str, sight: str, tmp_path: Path) -> None:
    """What the killed process had shown is told anew; nothing is there twice."""
    for epochs in (2, 4):
        shown = loggers.Mirror()
        shown.send(start_message(tmp_path, tracker))
        for epoch in range(epochs):
            shown.send({"do": "point", "number": epoch, "row": {"epoch": epoch, "step": 9 * epoch, "loss": 0.5}})
        if epochs == 4:
            shown.send({"do": "finish", "failed": False})
            shown.close()
        while not list(tmp_path.glob(sight)):
            time.sleep(0.05)
        if epochs == 2:
            os.killpg(shown.process.pid, signal.SIGKILL)
            shown.process.wait()
    assert len(list(tmp_path.glob(sight))) == 1
    if tracker == "wandb":
        found = read_run(tmp_path)
        assert [(row["epoch"], row["trainer/global_step"]) for row in found["history"]] == [
            (0, 0),
            (1, 9),
            (2, 18),
            (3, 27),
        ]
        assert len(found["run"]["tags"][0]) == 64 and found["kinds"]["exit"] == 1


def test_rows_that_the_server_has_are_not_told_again() -> None:
    """A run that is resumed online begins at W&B's next step."""
    told: list[int] = []
    shown = mirror.Wandb.__new__(mirror.Wandb)
    shown.run = type(
        "Resumed", (), {"starting_step": 2, "log": staticmethod(lambda row, step, commit: told.append(step))}
    )  # type: ignore[assignment]
    for number in range(4):
        shown.point(number, {"epoch": number, "step": number})
    assert told == [2, 3]


@contextmanager
def server(answer: int | None, body: str = "{}") -> Iterator[str]:
    """A W&B server that answers every question alike, or not at all."""
    closed = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if answer is None:
                closed.wait(60)
                return
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            closed.set()
            http.shutdown()


@pytest.mark.parametrize(
    ("answer", "body", "words"),
    [
        (401, "", "refuses the key"),
        (200, '{"data": {"viewer": null}}', "refuses the key"),
        (500, "", "error 500"),
        (200, "<html>", "cannot be reached"),
        (None, "", "does not answer"),
        (200, '{"data": {"viewer": {"id": "x"}}}', None),
    ],
)
def test_a_server_that_is_of_no_use_is_found_out_soon(
    answer: int | None, body: str, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SECONDS_TO_ANSWER", 0.5 if answer is None else 30)
    with server(answer, body) as place:
        found = mirror.refusal(place, "a" * 40)
    assert found is None if words is None else words in str(found)


@pytest.mark.parametrize("key", ["short", "a" * 40, "not a key\u2028"])
def test_a_key_of_no_use_leaves_an_offline_run_and_one_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    said: list[str] = []
    screen = mirror.Screen(said.append)
    for number in range(2):
        screen.hear(start_message(tmp_path / str(number), "wandb", mode="online"))
        screen.hear({"do": "finish", "failed": False})
        assert len(list((tmp_path / str(number)).glob("wandb/offline-run-*"))) == 1
    assert len(said) == 1 and "wandb sync" in said[0]


@pytest.mark.parametrize(
    ("variables", "files", "mode"),
    [
        ({}, {}, None),
        ({"WANDB_MODE": "disabled"}, {}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, {"user": "mode = online"}, "offline"),
        ({"WANDB_MODE": "online"}, {"here": "mode = offline"}, "online"),
        ({"WANDB_DISABLED": "true"}, {}, "disabled"),
        ({"WANDB_DISABLED": "false"}, {}, None),
        ({}, {"here": "mode = offline"}, "offline"),
        ({}, {"user": "mode = offline"}, "offline"),
        ({}, {"user": "mode = offline", "here": "mode = online"}, "online"),
        ({}, {"user": "disabled = true"}, "disabled"),
        ({}, {"here": "mode offline ["}, None),
    ],
)
def test_what_wandb_was_told_holds_here(
    variables: dict[str, str], files: dict[str, str], mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WANDB_CONFIG_DIR": str(tmp_path / "user"), "WANDB_API_KEY": "a" * 40, **variables}.items():
        monkeypatch.setenv(name, value)
    for place, line in files.items():
        path = tmp_path / place / ("wandb" if place == "here" else "") / "settings"
        path.parent.mkdir(parents=True)
        path.write_text(f"[default]\n{line}\n")
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    assert told_mode() == mode
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "_open_mirror", lambda: SimpleNamespace(send=told.append))
    tracker = wandb_logger(make_run(tmp_path), "team/x", None, "auto")
    assert (
        tracker is None
        if mode == "disabled"
        else told[0]["mode"] == (mode or "online") and told[0]["project"] == "team-x"
    )


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_become_such_as_wandb_takes(one: str, other: str) -> None:
    assert len(shortened(one, 64)) <= 64 and (shortened(one, 64) == shortened(other, 64)) == (one == other)
    assert len(project_name(one)) <= 128 and not set(project_name(one)) & set("/\\#?%:")


def test_nobody_waits_for_a_tracker_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(loggers, "SECONDS_TO_WRITE", 0.2)
    monkeypatch.setattr(loggers, "MIRROR", ["sleep", "600"])
    hanging = loggers.Mirror()
    for number in range(1000):  # more than a pipe holds
        hanging.send({"do": "point", "number": number, "row": {"loss": "x" * 1000}})
    hanging.close()
    assert hanging.process.returncode == -signal.SIGKILL and "had not taken everything" in caplog.text


KILLED = """
import os, signal, sys
from speechforget.tracking import Mirror
mirror = Mirror()
print(mirror.process.pid, flush=True)
mirror.send({"do": "nothing"})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_tracker_ends_with_the_process_that_it_is_for() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    child, until = Path("/proc") / killed.stdout.strip(), time.monotonic() + 60
    while (
        child.exists() and "Z" not in (child / "stat").read_text().rpartition(")")[2][:3] and time.monotonic() < until
    ):
        time.sleep(0.05)
    assert time.monotonic() < until


GUARD = """
import socket
def refuse(self, address, *_):
    raise OSError("the network is shut")
for name in ("connect", "connect_ex"):
    inner = getattr(socket.socket, name)
    setattr(socket.socket, name, lambda self, address, inner=inner: inner(self, address) if self.family == socket.AF_UNIX else refuse(self, address))
"""


@pytest.mark.slow
def test_no_tracker_makes_a_run_wait_or_fail(command: Callable, small: list[str], tmp_path: Path) -> None:
    """The network shut; a server that refuses, fails or never answers: the artefacts of a quiet run, soon after it would have ended."""
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
        with server(answer) as place:
            seconds, found = timed(str(answer), tracked, **key, WANDB_BASE_URL=place)
        assert found == artefacts and seconds < 2 * took + 5, answer
    seconds, found = timed(
        "shut", tracked, **key, PYTHONPATH=os.pathsep.join([str(tmp_path / "guard"), os.environ.get("PYTHONPATH", "")])
    )
    assert found == artefacts and seconds < 2 * took + 5  # twice, as cores may be shared


def test_no_logger_logs_nothing(tmp_path: Path) -> None:
    with track({"_target_": "speechforget.tracking.loggers.no_logger"}, make_run(tmp_path)) as tracker:
        log_comparison(tracker, ["a"], [[1]], {"a": 1.0}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_libraries_load_stays_ctrl_c_where_nothing_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-loaded libraries crash when they are loaded again, so that the way out must not."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", None)
    with (
        pytest.raises(KeyboardInterrupt),
        track({"_target_": "speechforget.tracking.loggers.no_logger"}, make_run(tmp_path)) as tracker,
    ):
        log_comparison(tracker, ["a"], [[1]], {"a": 1.0}, tmp_path / "plot.png")
        raise KeyboardInterrupt
