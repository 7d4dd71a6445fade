"""A job of a sweep: what travels to where it runs (`Work`), and what the launching process knows of it (`Job`)."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig

from speechforget.cli.main import SWEEP
from speechforget.launchers.job_logs import last_words
from speechforget.store import write_json

if TYPE_CHECKING:
    from hydra_plugins.speechforget_launcher.launcher import SubmititLauncher

START = "SPEECHFORGET_START"  # how often a job was put back into the queue; the same for all tasks of one start


class Work:
    """Runs one job of a sweep; submitit pickles it. outcomes: the folder for the file that says how it ended."""

    def __init__(self, launcher: SubmititLauncher, overrides: Sequence[str], number: int, outcomes: Path) -> None:
        self.launcher = launcher
        self.overrides, self.number, self.outcomes = list(overrides), number, outcomes
        self.state = Singleton.get_state()
        self.starts = 0

    def __call__(self) -> JobReturn:
        """In the job: what Hydra's launcher for submitit does there."""
        logging.getLogger("submitit").propagate = False  # it prints by itself
        os.environ |= {SWEEP: str(self.outcomes), START: str(self.starts)}
        return self.launcher(self.overrides, "hydra.sweep.dir", self.number, str(self.number), self.state)

    def load(self) -> DictConfig:
        """The job's config, Hydra's part included."""
        assert self.launcher.hydra_context is not None and self.launcher.config is not None
        return self.launcher.hydra_context.config_loader.load_sweep_config(self.launcher.config, self.overrides)

    def checkpoint(self) -> Any:
        """In the job, on preemption and shortly before the time limit: what shall run when it starts again. The artefacts' folders hold the rest."""
        import submitit

        self.starts += 1
        return submitit.helpers.DelayedSubmission(self)


@dataclass(eq=False)
class Job:
    """config: resolved. stage: original or oracle where the job belongs to the first wave. handle: submitit's, once it was handed in."""

    work: Work
    config: Mapping[str, Any]
    stage: str | None = None
    handle: Any = None
    ended: bool = False
    missing_since: float | None = None
    value: float = math.inf  # for a search, in which a job that returns nothing is as bad as can be

    @property
    def id(self) -> str:
        """Of the cluster."""
        return str(self.handle.job_id)

    @property
    def title(self) -> str:
        """For a person."""
        words = " ".join(filter_overrides(self.work.overrides))
        return f"{self.stage} for {words}" if self.stage else words

    @property
    def log(self) -> str:
        """Where to read what task 0 printed, as the end of a sentence."""
        path = Path(self._task_0.paths.stdout)
        return f"; log: {path}" if path.exists() else " before it began"

    @property
    def last_words(self) -> str:
        """What task 0 or SLURM said last of why it ended, within a sentence; empty where they said nothing."""
        words = last_words(Path(self._task_0.paths.stdout))
        return f"; it said: {words}" if words else ""

    @property
    def result_file(self) -> Path:
        """What submitit leaves when task 0 has returned; the other tasks return nothing of interest."""
        return Path(self._task_0.paths.result_pickle)

    @property
    def _task_0(self) -> Any:
        return self.handle.task(0)

    @property
    def outcome_file(self) -> Path:
        """What the job leaves when it could say itself how it ended."""
        return self.work.outcomes / f"{self.work.number}.json"

    @property
    def outcome(self) -> Mapping[str, Any]:
        """How it ended; empty before."""
        try:
            return dict(json.loads(self.outcome_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def finish(self) -> bool:
        """Takes what the job returned; False where that cannot be read yet."""
        try:
            kind, returned = pickle.loads(self.result_file.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return False
        if kind == "error":
            lines = [line for line in str(returned).splitlines() if line.strip()]
            self.end("failed", f"{lines[-1].strip() if lines else 'it said nothing'}{self.log}")
        elif returned.status is not JobStatus.COMPLETED:
            self.end("failed", f"{returned._return_value!r}{self.log}")
        else:
            self.value, self.ended = float(returned.return_value), True
        return True

    def end(self, outcome: str, reason: str) -> None:
        """Notes how the job ended, unless it has done so itself."""
        self.ended = True
        if not self.outcome_file.exists():
            overrides = filter_overrides(self.work.overrides)
            write_json(
                self.outcome_file, {"overrides": overrides, "outcome": outcome, "objective": None, "reason": reason}
            )

    def report(self) -> JobReturn:
        """For Hydra, which would end the whole sweep for a job that failed: `command.summarise` is where failures are told."""
        return JobReturn(overrides=self.work.overrides, status=JobStatus.COMPLETED, _return_value=self.value)


@dataclass(frozen=True)
class Sight:
    """A job as the queue sees it: waiting, running, ending or gone; why it waits."""

    state: str
    reason: str = ""


class Queue(Protocol):
    """Where jobs are handed in. name: for a person. folder: submitit's files and the logs. patience: seconds between two looks, at most."""

    name: str
    folder: Path
    patience: float

    def submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        """Hands in jobs that start when those of `after` have ended, however they ended. Raises UserError where they are refused."""

    def look(self, jobs: Sequence[Job]) -> dict[Job, Sight]:
        """How jobs that have not ended stand."""

    def fate(self, job: Job, missing: float) -> tuple[str, str] | None:
        """The outcome and a sentence for a job that is gone, or ending, without a result for `missing` seconds; None while it may still come."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ends jobs."""
