"""Jobs without a result: the last sweep decides, and what nobody builds is missing."""

import json
import os
from pathlib import Path
from typing import Any

from speechforget.record.folders import Outputs
from speechforget.record.jobs import jobs_without_result
from speechforget.store.locks import locked


def sweep(folder: Path, name: str, jobs: dict[int, tuple[list[str], str]], age: float = 0) -> None:
    (folder / "sweeps" / name).mkdir(parents=True)
    for number, (overrides, outcome) in jobs.items():
        path = folder / "sweeps" / name / f"{number}.json"
        path.write_text(json.dumps({"overrides": overrides, "outcome": outcome, "reason": f"it {outcome}"}))
        os.utime(path, (1e9 - age, 1e9 - age))


def told(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return jobs_without_result(Outputs(folder), {})


def test_a_job_that_a_later_sweep_repeated_has_its_outcome(tmp_path: Path) -> None:
    job = ["method=scrub", "seed=1"]
    sweep(tmp_path, "a", {0: (job, "failed"), 1: (["method=unsir"], "not applicable")}, age=100)
    assert told(tmp_path)["failed"] == [{"command": "speechforget method=scrub seed=1", "reason": "it failed"}]
    sweep(tmp_path, "b", {0: ([*reversed(job), "trainer.threads=2", "output=elsewhere"], "done")})
    found = told(tmp_path)
    assert found["failed"] == [] and [one["reason"] for one in found["not_applicable"]] == ["it not applicable"]
    sweep(tmp_path, "c", {0: (job, "cancelled")}, age=-100)
    assert [one["reason"] for one in told(tmp_path)["failed"]] == ["it cancelled"]


def test_jobs_that_never_ended_and_unfinished_folders_are_missing(tmp_path: Path) -> None:
    sweep(tmp_path, "a", {0: ([], "done"), 3: ([], "done")})
    (tmp_path / "sweeps" / "a" / "multirun.yaml").touch()
    busy, dead = (tmp_path / "oracle" / f"tiny-seed{seed}-0123456789ab" for seed in range(2))
    busy.mkdir(parents=True)
    dead.mkdir()
    with locked(busy):
        reasons = [one["reason"] for one in told(tmp_path)["missing"]]
    assert reasons[:2] == [f"job {number} of this sweep has not ended" for number in (1, 2)]
    assert f"process {os.getpid()}" in reasons[2] and reasons[3] == "unfinished: nobody builds it"


def test_unreadable_results_are_missing(tmp_path: Path) -> None:
    folder = tmp_path / "result" / "none-tiny-0123456789ab"
    found = jobs_without_result(Outputs(tmp_path), {folder: "it cannot be read"})
    assert found["missing"] == [{"path": "result/none-tiny-0123456789ab", "reason": "it cannot be read"}]
