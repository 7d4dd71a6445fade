"""The interface of a queue of jobs, which `slurm.Slurm` and `local.Local` implement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from speechforget.launchers.jobs import Job


@dataclass(frozen=True)
class Sight:
    """State of a job in the queue: waiting, running, ending or gone. reason: why it waits."""

    state: str
    reason: str = ""


class Queue(Protocol):
    """Accept and run jobs.

    name: for messages. folder: for submitit's files and logs. patience: seconds between two looks, at most.
    """

    name: str
    folder: Path
    patience: float

    def submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        """Submit jobs that start when those of `after` have ended in any way. Raises UserError for refused jobs."""

    def look(self, jobs: Sequence[Job]) -> dict[Job, Sight]:
        """Return the states of jobs that have not ended."""

    def fate(self, job: Job, missing: float) -> tuple[str, str] | None:
        """Return outcome and reason of a job that left the queue; None while its result may still come.

        missing: seconds since it left the queue without a result.
        """

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs."""
