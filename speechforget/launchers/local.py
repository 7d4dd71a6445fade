"""Run jobs as processes of this machine, a few at once, through submitit's local executor."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechforget.config.ranges import whole
from speechforget.errors import UserError
from speechforget.launchers.jobs import Job
from speechforget.launchers.queue import Sight
from speechforget.launchers.slurm import import_submitit, python_path

WEEK_MIN = 7 * 24 * 60  # submitit requires a time limit
SECONDS_TO_END = 10.0


class Local:
    """Implement `queue.Queue` on this machine."""

    name = "process"
    patience = 1.0

    def __init__(self, folder: Path) -> None:
        import_submitit("submitit_local")
        self.folder = folder
        self.waiting: list[tuple[Job, Sequence[Job]]] = []
        self.slots: dict[int, Job] = {}

    def submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        """Add jobs to a list, as submitit's local executor has no queue."""
        for job in jobs:
            whole(job.config["launch"], "jobs_at_once", 1, "launch.")
            if job.config["trainer"]["nodes"] != 1:
                raise UserError("launch=submitit_local uses one machine: set trainer.nodes=1, or use launch=slurm.")
        self.waiting += [(job, after) for job in jobs]
        self._start()

    def _start(self) -> None:
        self.slots = {slot: job for slot, job in self.slots.items() if job.handle._process.poll() is None}
        for job, after in list(self.waiting):
            free = next(slot for slot in range(len(self.slots) + 1) if slot not in self.slots)
            if len(self.slots) >= job.config["launch"]["jobs_at_once"] or not all(other.ended for other in after):
                return
            self.waiting.remove((job, after))
            job.handle = self._executor(job, free).submit(job.work)
            self.slots[free] = job

    def _executor(self, job: Job, slot: int) -> Any:
        from submitit import LocalExecutor

        os.environ["PYTHONPATH"] = python_path()
        trainer, gpus = job.config["trainer"], visible_gpus()
        devices = trainer["devices"]
        executor = LocalExecutor(self.folder)
        executor.update_parameters(timeout_min=WEEK_MIN, tasks_per_node=devices, stderr_to_stdout=True)
        if trainer["accelerator"] == "gpu" and gpus:  # simultaneous jobs share GPUs only where there are too few
            chosen = [gpus[(slot * devices + index) % len(gpus)] for index in range(devices)]
            executor.update_parameters(gpus_per_node=devices, visible_gpus=chosen)
        return executor

    def look(self, jobs: Sequence[Job]) -> dict[Job, Sight]:
        """Start jobs that may start, then return all states."""
        self._start()
        return {job: _sight(job) for job in jobs}

    def fate(self, job: Job, missing: float) -> tuple[str, str] | None:
        """Give up soon: the result is on this machine, so it exists when the process has ended."""
        if job.handle._process.poll() is None or missing < 1.0:
            return None
        return "failed", f"process {job.id} ended without a result{job.last_words}{job.log}"

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Wait, interrupt, kill: a terminal's Ctrl-C reached the jobs; a second signal would stop their clean-up."""
        for signum, seconds in ((None, 2.0), (signal.SIGINT, SECONDS_TO_END), (signal.SIGKILL, SECONDS_TO_END)):
            for job in jobs:
                process = job.handle._process
                if signum is not None and process.poll() is None:
                    process.send_signal(signum)
            if all(_ends(job.handle._process, seconds) for job in jobs):
                return


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _sight(job: Job) -> Sight:
    if job.handle is None:
        return Sight("waiting")
    return Sight("running" if job.handle._process.poll() is None else "gone")


def visible_gpus() -> list[int]:
    """Return the indices of the GPUs that jobs may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [int(word) for word in chosen.split(",") if word.strip().isdigit()]
    return list(range(len(list(Path("/proc/driver/nvidia/gpus").glob("*")))))
