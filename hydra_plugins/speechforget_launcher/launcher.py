"""Launch the jobs of a sweep through submitit, and the models that they share first.

hydra-submitit-launcher runs each job. speechforget.launchers submits jobs and waits for them, since
hydra-submitit-launcher submits all at once and stops waiting at the first failed job.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from speechforget.launchers.queue import Queue

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # an extra; launching without it is a UserError

    class BaseSubmititLauncher(Launcher):  # type: ignore[no-redef]
        """Replace the missing class until a sweep is launched."""

        def __init__(self, **_: Any) -> None:
            self.config: DictConfig | None = None

        def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
            """Keep what Hydra passes to a launcher."""
            self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class SubmititLauncher(BaseSubmititLauncher):
    """Launch through a queue; import the queue only then."""

    @abstractmethod
    def queue(self, folder: Path) -> Queue:
        """Return the queue for the jobs. folder: for submitit's files and the logs."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs and wait for them. Raises UserError where submitit is missing or no job could be submitted."""
        from speechforget.launchers.watch import launch

        return launch(self, job_overrides, initial_job_idx)


class SlurmLauncher(SubmititLauncher):
    """Run jobs on SLURM, in arrays."""

    def queue(self, folder: Path) -> Queue:
        """Return the queue for the jobs."""
        from speechforget.launchers.slurm import Slurm

        return Slurm(folder)


class LocalLauncher(SubmititLauncher):
    """Run jobs as processes of this machine, by the same code as on SLURM."""

    def queue(self, folder: Path) -> Queue:
        """Return the queue for the jobs."""
        from speechforget.launchers.local import Local

        return Local(folder)


__all__ = ["LocalLauncher", "SlurmLauncher"]
