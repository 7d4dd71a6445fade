"""The launchers that Hydra finds: a sweep's jobs through submitit, the models that they share first.

They are hydra-submitit-launcher's, which runs a job; how jobs are handed in and waited for is ours, since that one hands in all at once and stops
waiting at the first job that failed.
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

    from speechforget.launchers.jobs import Queue

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # an extra: whoever launches without it is told so

    class BaseSubmititLauncher(Launcher):  # type: ignore[no-redef]
        """Stands in until there is something to launch."""

        def __init__(self, **_: Any) -> None:
            self.config: DictConfig | None = None

        def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
            """See Hydra's `Launcher`."""
            self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class SubmititLauncher(BaseSubmititLauncher):
    """What both share; everything else is imported when there is something to launch."""

    @abstractmethod
    def queue(self, folder: Path) -> Queue:
        """Where jobs are handed in. folder: for what submitit writes, and for logs."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs and waits for all of them. Raises UserError where submitit is missing or nothing could be handed in."""
        from speechforget.launchers.watch import launch

        return launch(self, job_overrides, initial_job_idx)


class SlurmLauncher(SubmititLauncher):
    """Jobs of SLURM, in arrays."""

    def queue(self, folder: Path) -> Queue:
        """See the class above."""
        from speechforget.launchers.slurm import Slurm

        return Slurm(folder)


class LocalLauncher(SubmititLauncher):
    """Processes of this machine, by the same path as on SLURM."""

    def queue(self, folder: Path) -> Queue:
        """See the class above."""
        from speechforget.launchers.local import Local

        return Local(folder)


__all__ = ["LocalLauncher", "SlurmLauncher"]
