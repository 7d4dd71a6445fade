"""One tracked run per artefact, offline where no key is configured, always finished."""

import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from speechforget.errors import UserError
from speechforget.tracking import Run, has_wandb_key, log_comparison, track, wandb_logger

READER = Path(__file__).parents[2] / "shared" / "tools" / "read_wandb.py"
STAGES = ("original", "oracle", "unlearned", "result")


@pytest.fixture(scope="module")
def tracked(command, small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    arguments = [override for override in small if override != "logger=none"]
    empty = {"WANDB_MODE": None, "WANDB_API_KEY": None, "NETRC": str(folder / "none")}
    run = command(*arguments, f"output={folder}", env=empty)
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stderr.splitlines() if "wandb sync" in line]
    assert len(said) == 1 and "offline" in said[0]
    return folder


def test_each_artefact_has_one_offline_run(tracked: Path) -> None:
    for stage in STAGES:
        assert len(list(tracked.glob(f"{stage}/*/wandb/offline-run-*/*.wandb"))) == 1, stage


def test_runs_hold_curves_table_and_plot(tracked: Path) -> None:
    if not READER.exists():
        pytest.skip("the reader of offline W&B files is not here")
    spec = importlib.util.spec_from_file_location("read_wandb", READER)
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    found = {}
    for stage in STAGES:
        (path,) = tracked.glob(f"{stage}/*/wandb/offline-run-*/*.wandb")
        found[stage] = reader.load(path)
    assert {run["run"]["group"] for run in found.values()} == {"folder-word-tcresnet"}
    assert all(run["kinds"].get("exit") == 1 for run in found.values())
    keys = {stage: json.loads(next((tracked / stage).glob("*/DONE")).read_text())["key"] for stage in STAGES}
    assert all(found[stage]["run"]["id"] == keys[stage][:32] for stage in STAGES)
    for stage in ("original", "oracle"):
        curve = [step["train/loss"] for step in found[stage]["history"] if "train/loss" in step]
        assert len(curve) == 4 and curve[-1] < curve[0]
        assert any("validation/accuracy" in step for step in found[stage]["history"])
    assert any("unlearn/forget_loss" in step for step in found["unlearned"]["history"])
    assert found["result"]["summary"]["comparison/_type"] == "table-file"
    assert found["result"]["summary"]["comparison plot/count"] == 1
    (table,) = tracked.glob("result/*/wandb/offline-run-*/files/media/table/*.json")
    columns = json.loads(table.read_text())["columns"]
    assert columns[:4] == ["model", "metric", "value", "low"]


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_other_loggers_hold_the_curves(name: str, command, small, tmp_path: Path) -> None:
    run = command(*small, f"output={tmp_path}", f"logger={name}")
    assert run.returncode == 0, run.stderr
    if name == "csv":
        (curves,) = tmp_path.glob("original/*/csv/metrics.csv")
        assert len(pd.read_csv(curves)["train/loss"].dropna()) == 4
    else:
        assert len(list(tmp_path.glob("original/*/tensorboard/events*"))) == 1
        assert len(list(tmp_path.glob("result/*/tensorboard/events*"))) == 1


def make_run(folder: Path) -> Run:
    return Run(folder, "k" * 64, "name", "group", "original", ["tag"], {"seed": 0})


def test_online_without_a_key_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not has_wandb_key()
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(make_run(tmp_path), "project", None, "online")
    with pytest.raises(UserError, match=r"logger\.mode"):
        wandb_logger(make_run(tmp_path), "project", None, "onlin")


def test_keys_are_found_where_wandb_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "netrc").write_text("machine wandb.example.org\n  login user\n  password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert not has_wandb_key()


def test_a_tracker_is_finished_also_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), track({"_target_": "speechforget.tracking.csv_logger"}, make_run(tmp_path)) as tracker:
        assert tracker is not None
        tracker.log_metrics({"loss": 1.0}, step=0)
        raise ZeroDivisionError
    assert pd.read_csv(tmp_path / "csv" / "metrics.csv")["loss"].tolist() == [1.0]


def test_no_logger_logs_nothing(tmp_path: Path) -> None:
    with track({"_target_": "speechforget.tracking.no_logger"}, make_run(tmp_path)) as tracker:
        log_comparison(tracker, ["a"], [[1]], {"a": 1.0}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_libraries_load_stays_ctrl_c_where_nothing_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-loaded libraries crash when they are loaded again, so that the way out must not."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", None)
    with pytest.raises(KeyboardInterrupt), track({"_target_": "speechforget.tracking.no_logger"}, make_run(tmp_path)) as tracker:
        log_comparison(tracker, ["a"], [[1]], {"a": 1.0}, tmp_path / "plot.png")
        raise KeyboardInterrupt
