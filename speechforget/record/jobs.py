"""List the jobs of sweeps that gave no result: failed, missing, or not applicable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_overrides, hidden_path
from speechforget.store.files import read_json
from speechforget.store.holders import describe, who_holds
from speechforget.store.locks import lock_file

FAILED = ("failed", "cancelled")
NOT_APPLICABLE = "not applicable"
# Overrides that change no number: the same job, repeated with others, replaces its outcome.
ELSEWHERE = ("trainer.", "launch", "logger", "lock=", "hydra")


def jobs_without_result(outputs: Outputs, unreadable: Mapping[Path, str]) -> dict[str, list[dict[str, Any]]]:
    """Return failed, missing and not applicable jobs, each with its command or path, and a reason.

    unreadable: folders of results -> why they are missing, too.
    A job that a later sweep repeated has the outcome of that sweep.
    """
    last = {json.dumps(_identity(job)): job for _, job in sorted(_outcomes(outputs), key=lambda each: each[0])}
    failed = [job for job in last.values() if job["outcome"] in FAILED]
    not_applicable = [job for job in last.values() if job["outcome"] == NOT_APPLICABLE]
    return {
        "failed": [_told(job) for job in failed],
        "not_applicable": [_told(job) for job in not_applicable],
        "missing": [*_never_ended(outputs), *_unfinished(outputs), *_unreadable(outputs, unreadable)],
    }


def _paths(outputs: Outputs) -> Iterator[Path]:
    """Yield the file of each outcome."""
    for root in outputs.roots:
        yield from (path for path in sorted(root.glob("sweeps/*/*.json")) if path.stem.isdigit())


def _outcomes(outputs: Outputs) -> Iterator[tuple[tuple[float, str], dict[str, Any]]]:
    """Yield each outcome with the time of its file."""
    for path in _paths(outputs):
        job = read_json(path)
        if isinstance(job.get("overrides"), list) and isinstance(job.get("outcome"), str):
            yield (path.stat().st_mtime, path.as_posix()), job


def _identity(job: dict[str, Any]) -> list[str]:
    return sorted(word for word in hidden_overrides(job["overrides"]) if not word.startswith(ELSEWHERE))


def _told(job: dict[str, Any]) -> dict[str, Any]:
    words = " ".join(["speechforget", *hidden_overrides(job["overrides"])])
    return {"command": words, "reason": str(job.get("reason") or "no reason was recorded")}


def _never_ended(outputs: Outputs) -> Iterator[dict[str, Any]]:
    """Yield the jobs of a sweep that wrote no outcome, though a later job of it did."""
    for sweep in sorted({path.parent for path in _paths(outputs)}):
        numbers = {int(path.stem) for path in sweep.glob("*.json") if path.stem.isdigit()}
        for number in sorted(set(range(max(numbers))) - numbers):
            yield {"path": outputs.relative(sweep), "reason": f"job {number} of this sweep has not ended"}


def _unfinished(outputs: Outputs) -> Iterator[dict[str, Any]]:
    for folder in outputs.unfinished:
        holder = who_holds(lock_file(folder))
        state = "unfinished: nobody builds it" if holder is None else f"in use: {describe(holder)} builds it"
        yield {"path": hidden_path(outputs.relative(folder)), "reason": state}


def _unreadable(outputs: Outputs, unreadable: Mapping[Path, str]) -> Iterator[dict[str, Any]]:
    for folder, reason in unreadable.items():
        yield {"path": hidden_path(outputs.relative(folder)), "reason": reason}
