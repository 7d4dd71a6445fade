"""A job of a sweep: what is pickled and sent to run it (`Work`), and its state in the launching process (`Job`)."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig

from speechforget.cli.sweep import SWEEP
from speechforget.launchers.job_logs import last_words
from speechforget.store import write_json

if TYPE_CHECKING:
    from hydra_plugins.speechforget_launcher.launcher import SubmititLauncher

START = "SPEECHFORGET_START"  # environment: how often a job was requeued, equal on all ranks of one start


class Work:
    """Run one job of a sweep; submitit pickles this. outcomes: the folder for the file with the outcome."""

    def __init__(self, launcher: SubmititLauncher, overrides: Sequence[str], number: int, outcomes: Path) -> None:
        self.launcher = launcher
        self.overrides, self.number, self.outcomes = list(overrides), number, outcomes
        self.state = Singleton.get_state()
        self.starts = 0

    def __call__(self) -> JobReturn:
        """Run the job, as Hydra's launcher for submitit does."""
        logging.getLogger("submitit").propagate = False  # submitit has its own handler
        os.environ |= {SWEEP: str(self.outcomes), START: str(self.starts)}
        return self.launcher(self.overrides, "hydra.sweep.dir", self.number, str(self.number), self.state)

    def load(self) -> DictConfig:
        """Compose the config of the job, with Hydra's own part."""
        assert self.launcher.hydra_context is not None and self.launcher.config is not None
        return self.launcher.hydra_context.config_loader.load_sweep_config(self.launcher.config, self.overrides)

    def checkpoint(self) -> Any:
        """Return what to run after a requeue; submitit calls this on preemption and before the time limit."""
        import submitit

        self.starts += 1
        return submitit.helpers.DelayedSubmission(self)


@dataclass(eq=False)
class Job:
    """One job. config: resolved. stage: the model of a job in the first wave. handle: submitit's, if submitted."""

    work: Work
    config: Mapping[str, Any]
    stage: str | None = None
    handle: Any = None
    ended: bool = False
    missing_since: float | None = None
    value: float = math.inf  # objective; a job without a result is the worst trial of a search

    @property
    def id(self) -> str:
        """Return the id that the cluster gave."""
        return str(self.handle.job_id)

    @property
    def title(self) -> str:
        """Describe the job in messages."""
        words = " ".join(filter_overrides(self.work.overrides))
        return f"{self.stage} for {words}" if self.stage else words

    @property
    def log(self) -> str:
        """Name the log of rank 0, as the end of a sentence."""
        path = Path(self._rank_0.paths.stdout)
        return f"; log: {path}" if path.exists() else " before it began"

    @property
    def last_words(self) -> str:
        """Quote the last line of rank 0 or of SLURM, within a sentence; empty where there is none."""
        words = last_words(Path(self._rank_0.paths.stdout))
        return f"; last line: {words}" if words else ""

    @property
    def result_file(self) -> Path:
        """Return the file that submitit writes when rank 0 has returned; the other ranks return nothing useful."""
        return Path(self._rank_0.paths.result_pickle)

    @property
    def _rank_0(self) -> Any:
        return self.handle.task(0)

    @property
    def outcome_file(self) -> Path:
        """Return the file in which the job itself records its outcome."""
        return self.work.outcomes / f"{self.work.number}.json"

    @property
    def outcome(self) -> Mapping[str, Any]:
        """Return the recorded outcome; empty before there is one."""
        try:
            return dict(json.loads(self.outcome_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def finish(self) -> bool:
        """Read what the job returned; return False where that is not readable yet."""
        try:
            kind, returned = pickle.loads(self.result_file.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return False
        if kind == "error":
            lines = [line for line in str(returned).splitlines() if line.strip()]
            self.end("failed", f"{lines[-1].strip() if lines else 'no message'}{self.log}")
        elif returned.status is not JobStatus.COMPLETED:
            self.end("failed", f"{returned._return_value!r}{self.log}")
        else:
            self.value, self.ended = float(returned.return_value), True
        return True

    def end(self, outcome: str, reason: str) -> None:
        """Record the outcome, unless the job itself has."""
        self.ended = True
        if not self.outcome_file.exists():
            overrides = filter_overrides(self.work.overrides)
            write_json(
                self.outcome_file, {"overrides": overrides, "outcome": outcome, "objective": None, "reason": reason}
            )

    def report(self) -> JobReturn:
        """Report success to Hydra, which stops a sweep at a failed job; `cli.sweep.summarise` reports failures."""
        return JobReturn(overrides=self.work.overrides, status=JobStatus.COMPLETED, _return_value=self.value)
