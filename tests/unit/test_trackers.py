"""Trackers: failures, learning curves, W&B's settings and names, and a server that does not work."""

import csv
import io
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trackers import make_run, rows_of, server, start_message

from speechforget.errors import UserError
from speechforget.tracking import loggers, mirror, wandb_run
from speechforget.tracking.curves import Curve, table
from speechforget.tracking.loggers import track, wandb_logger
from speechforget.tracking.tracker import Run
from speechforget.tracking.wandb_settings import can_log_in, project_name, shortened, told_mode

PLAIN: dict[str, Any] = {"names": "hashed", "audio": False, "artifacts": "references"}
NO_LOGGER = {"_target_": "speechforget.tracking.loggers.no_logger"}


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
    with track({"_target_": f"{__name__}.broken_logger"}, make_run(tmp_path)) as tracker:
        curve = Curve(tmp_path, tracker)
        for epoch in range(3):
            curve.add({"epoch": epoch})
    assert caplog.text.count("nowhere to be seen") == 1 and Broken.calls == ["point"]
    assert (tmp_path / "curves.csv").read_text() == "epoch\n0\n1\n2\n"


def test_a_tracker_is_finished_also_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "open_mirror", lambda: SimpleNamespace(send=told.append))
    for error in (None, ZeroDivisionError, KeyboardInterrupt):
        told.clear()
        options = {"_target_": "speechforget.tracking.loggers.tensorboard_logger"}
        with pytest.raises(error) if error else nullcontext(), track(options, make_run(tmp_path)) as tracker:
            assert tracker is not None
            tracker.point(0, {"loss": 1.0})
            if error:
                raise error
        assert [message["do"] for message in told] == ["start", "point", "finish"] and told[-1]["failed"] == bool(error)


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["epoch", "step", "loss", "a,b", 'q"']), st.floats(allow_nan=False), min_size=1
        ),
        max_size=6,
    )
)
def test_a_table_holds_each_row_once(rows: list[dict[str, float]]) -> None:
    read = list(csv.DictReader(io.StringIO(table(rows))))
    assert [{name: float(value) for name, value in row.items() if value} for row in read] == rows


def test_a_resumed_run_replaces_its_event_file(tmp_path: Path) -> None:
    for epochs in (2, 4):
        screen = mirror.Screen(pytest.fail)
        for message in (start_message(tmp_path, "tensorboard"), *rows_of(epochs)):
            screen.receive(message)
    assert len(list(tmp_path.glob("tensorboard/events*"))) == 1
    screen.receive({"do": "finish", "failed": False})
    assert len(list(tmp_path.glob("tensorboard/events*"))) == 1


def test_rows_that_the_server_has_are_not_told_again() -> None:
    """A run that is resumed online begins at W&B's next step."""
    told: list[int] = []
    shown = wandb_run.Wandb.__new__(wandb_run.Wandb)
    shown.run = type(
        "Resumed", (), {"starting_step": 2, "log": staticmethod(lambda row, step, commit: told.append(step))}
    )  # type: ignore[assignment]
    for number in range(4):
        shown.point(number, {"epoch": number, "step": number})
    assert told == [2, 3]


def test_a_result_that_the_server_has_is_not_told_again(tmp_path: Path) -> None:
    """Passes and comparison have fixed steps, so a result that was cut off continues with the next one."""
    pytest.importorskip("wandb")
    logged: list[tuple[int, set[str]]] = []
    shown = wandb_run.Wandb.__new__(wandb_run.Wandb)
    shown.run = SimpleNamespace(  # type: ignore[assignment]
        starting_step=1, summary={}, log=lambda row, step, commit: logged.append((step, set(row)))
    )
    told = {"columns": ["model"], "rows": [["oracle"]], "scalars": {"ranking/gap": 1.0, "oracle/x": 0.5}, "plot": None}
    told |= {"notes": ["a note"], "summary": {"verdict/request": "within"}, "sheets": {}, "headline": ["ranking/gap"]}
    shown.comparison({**told, "passes": [{"pass/number": number} for number in range(3)]})
    assert logged == [(1, {"pass/number"}), (2, {"pass/number"}), (3, {"ranking/gap", "comparison"})]
    assert shown.run.summary == {"ranking/gap": 1.0, "oracle/x": 0.5, "verdict/request": "within", "notes": "a note"}


class Sulking:
    """A run that takes rows and no artifacts."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def point(self, number: int, row: Mapping[str, float]) -> None:
        self.told.append("point")

    def artifacts(self, listed: Any) -> None:
        raise OSError("no space left")

    def finish(self, failed: bool) -> None:
        self.told.append("finish")


def test_artifacts_that_fail_cost_one_line_and_not_the_run() -> None:
    said: list[str] = []
    screen = mirror.Screen(said.append)
    screen.shown = shown = Sulking()  # type: ignore[assignment]
    screen.receive({"do": "artifacts", "artifacts": []})
    screen.receive(rows_of(1)[0])
    screen.receive({"do": "finish", "failed": False})
    assert shown.told == ["point", "finish"] and len(said) == 1 and "no space left" in said[0]


def test_what_cannot_be_listed_costs_one_line_and_the_run_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "open_mirror", lambda: SimpleNamespace(send=told.append))
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = {"_target_": "speechforget.tracking.loggers.wandb_logger", "project": "p", "entity": None, "mode": "auto"}
    (tmp_path / "inputs.json").write_text('{"inputs": {"models": 3}}')
    with track({**options, **PLAIN}, Run(tmp_path, "k" * 64, "name", "group", "result", [], {})) as tracker:
        assert tracker is not None
    assert [message["do"] for message in told] == ["start", "finish"] and not told[-1]["failed"]
    assert caplog.text.count("The tracker failed") == 1


def test_a_failure_to_gather_a_result_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def gather() -> Any:
        raise ValueError("no chart of this")

    caplog.set_level("INFO")
    with track({"_target_": "speechforget.tracking.loggers.csv_logger"}, make_run(tmp_path)) as tracker:
        assert tracker is not None
        tracker.compare(gather)
    assert "no chart of this" in caplog.text


def test_an_unusable_server_is_found_out_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, body, words in (
        (401, "", "refuses the key"),
        (200, '{"data": {"viewer": null}}', "refuses the key"),
        (500, "", "error 500"),
        (200, "<html>", "cannot be reached"),
        (None, "", "does not answer"),
        (200, '{"data": {"viewer": {"id": "x"}}}', None),
    ):
        monkeypatch.setattr(mirror, "SECONDS_TO_ANSWER", 0.5 if answer is None else 30)
        with server(answer, body) as address:
            found = mirror.refusal(address, "a" * 40)
        assert found is None if words is None else words in str(found), (answer, body)


def test_online_without_a_key_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    assert not can_log_in()
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(make_run(tmp_path), "project", None, "online", **PLAIN)


def test_keys_are_found_where_wandb_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "netrc").write_text("machine wandb.example.org\n  login user\n  password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert can_log_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert not can_log_in()


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
    for folder, line in files.items():
        path = tmp_path / folder / ("wandb" if folder == "here" else "") / "settings"
        path.parent.mkdir(parents=True)
        path.write_text(f"[default]\n{line}\n")
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    assert told_mode() == mode
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "open_mirror", lambda: SimpleNamespace(send=told.append))
    tracker = wandb_logger(make_run(tmp_path), "team/x", None, "auto", **PLAIN)
    assert (
        tracker is None
        if mode == "disabled"
        else told[0]["mode"] == (mode or "online") and told[0]["project"] == "team-x"
    )


@settings(max_examples=40)
@given(st.text(max_size=300), st.text(max_size=300))
def test_names_become_such_as_wandb_takes(one: str, other: str) -> None:
    assert len(shortened(one, 64)) <= 64 and (shortened(one, 64) == shortened(other, 64)) == (one == other)
    assert len(project_name(one)) <= 128 and not set(project_name(one)) & set("/\\#?%:")


def test_no_logger_logs_nothing(tmp_path: Path) -> None:
    with track(NO_LOGGER, make_run(tmp_path)) as tracker:
        assert tracker is None
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_libraries_load_stays_ctrl_c_where_nothing_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-loaded libraries crash if they are loaded again, so the exit must not load them."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", None)
    with (
        pytest.raises(KeyboardInterrupt),
        track(NO_LOGGER, make_run(tmp_path)),
    ):
        raise KeyboardInterrupt
