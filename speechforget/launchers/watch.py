"""Submit the jobs of a sweep, wait for all of them, and record the outcome of each."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, setup_globals
from omegaconf import DictConfig, OmegaConf

from speechforget.cli.sweep import SWEEP
from speechforget.config.validate import check
from speechforget.errors import NotApplicable, UserError
from speechforget.launchers.jobs import Job, Work
from speechforget.launchers.queue import Queue, Sight
from speechforget.launchers.shared_models import first_wave
from speechforget.store import make_folder

if TYPE_CHECKING:
    from hydra_plugins.speechforget_launcher.launcher import SubmititLauncher

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_DOUBT = 2.0  # between looks while a job is gone without a result


def launch(launcher: SubmititLauncher, job_overrides: Sequence[Sequence[str]], start: int) -> Sequence[JobReturn]:
    """Run all jobs and wait for them. Raises UserError where submitit is missing or no job could be submitted."""
    setup_globals()
    outcomes = Path(os.environ[SWEEP])
    works = [Work(launcher, overrides, start + index, outcomes) for index, overrides in enumerate(job_overrides)]
    jobs = [Job(work, resolved(work)) for work in works]
    if any(job.config["plan"] for job in jobs):
        return plan_here(launcher, job_overrides, start)
    queue = launcher.queue(outcomes / "jobs")
    for job in jobs:
        try:
            check(job.config)
        except NotApplicable as error:
            job.end("not applicable", str(error))
        except UserError as error:
            job.end("failed", str(error))
    first = first_wave([job for job in jobs if not job.ended])
    waiting = [job for job in jobs if not job.ended]
    if waiting:
        make_folder(outcomes / "first")
        run(queue, first, waiting)
    return [job.report() for job in jobs]


def resolved(work: Work) -> Mapping[str, Any]:
    """Compose and resolve the config of a job, without Hydra's own part."""
    config = work.load()
    return {str(key): _plain(config, str(key)) for key in config if key != "hydra"}


def _plain(config: DictConfig, key: str) -> Any:
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def plan_here(launcher: SubmititLauncher, job_overrides: Sequence[Sequence[str]], start: int) -> Sequence[JobReturn]:
    """Plan all jobs in this process."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    assert launcher.hydra_context is not None and launcher.task_function is not None and launcher.config is not None
    basic = BasicLauncher()
    basic.setup(hydra_context=launcher.hydra_context, task_function=launcher.task_function, config=launcher.config)
    return basic.launch(job_overrides, initial_job_idx=start)


def run(queue: Queue, first: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Submit all jobs and wait for them. An interrupt cancels exactly the jobs that have not ended."""
    everything = [*first, *jobs]
    try:
        if first:
            queue.submit(first, [])
            say(f"First {counted(first, 'model')} that the jobs share{ids(queue, first)}.")
        queue.submit(jobs, first)
        begin = "Then" if first else "Submitted:"
        say(f"{begin} {counted(jobs, 'job')}{ids(queue, jobs)}; logs: {queue.folder}")
        watch(queue, everything)
    except (KeyboardInterrupt, UserError):
        left = [job for job in everything if job.handle is not None and not job.ended]
        if left:
            queue.cancel(left)
            say(f"Cancelled {counted(left, 'job')}{ids(queue, left)}.")
        raise


def watch(queue: Queue, jobs: Sequence[Job]) -> None:
    """Wait until all jobs have ended. Results are files and seen at once; the queue is asked less and less often."""
    pause, next_look, sights, progress = 1.0, 0.0, dict[Job, Sight](), Progress()
    while left := [job for job in jobs if not job.ended]:
        looked = time.monotonic() >= next_look
        if looked:
            sights = queue.look(left)
        there = {entry.name for entry in os.scandir(queue.folder)} if queue.folder.exists() else set()
        for job in left:
            settle(queue, job, sights[job] if looked else None, there)
        if looked:
            doubtful = any(job.missing_since is not None for job in left if not job.ended)
            pause = SECONDS_OF_DOUBT if doubtful else min(pause * 1.3, queue.patience)
            next_look = time.monotonic() + pause
        if not all(job.ended for job in jobs):
            progress.show(jobs, sights)
            time.sleep(0.5)


def settle(queue: Queue, job: Job, sight: Sight | None, there: set[str]) -> None:
    """End a job that has a result or never will. sight: None between looks. there: names of submitit's files."""
    if job.handle is None:
        return
    if not (job.result_file.name in there and job.finish()):
        if sight is None:
            return
        if sight.state in ("waiting", "running"):
            job.missing_since = None
            return
        job.missing_since = job.missing_since or time.monotonic()
        found = queue.fate(job, time.monotonic() - job.missing_since)
        if found is None:
            return
        job.end(*found)
    outcome = job.outcome
    if job.stage and outcome.get("outcome") not in ("done", None):
        say(f"{outcome['outcome']}: {job.title}: {outcome['reason']}")


class Progress:
    """Print one line when states changed, every ten seconds at most."""

    def __init__(self) -> None:
        self.last, self.time = "", time.monotonic()

    def show(self, jobs: Sequence[Job], sights: Mapping[Job, Sight]) -> None:
        """Print the line if it is due."""
        if time.monotonic() - self.time < SECONDS_BETWEEN_LINES:
            return
        ended = [job for job in jobs if job.ended]
        states = Counter(sights[job].state for job in jobs if not job.ended and job in sights)
        reasons = Counter(
            sight.reason for job, sight in sights.items() if not job.ended and sight.state == "waiting" and sight.reason
        )
        why = f" ({', '.join(reason for reason, _ in reasons.most_common(2))})" if reasons else ""
        failed = sum(job.outcome.get("outcome") in ("failed", "cancelled") for job in ended)
        parts = [f"{states['running']} running", f"{states['waiting']} waiting{why}"]
        parts += [f"{failed} failed"] if failed else []
        line = f"{len(ended)} of {len(jobs)} ended, {', '.join(parts)}"
        if line != self.last:
            say(line)
            self.last, self.time = line, time.monotonic()


def counted(jobs: Sequence[Job], noun: str) -> str:
    """Write how many, as in `3 jobs`."""
    return f"{len(jobs)} {noun}{'' if len(jobs) == 1 else 's'}"


def ids(queue: Queue, jobs: Sequence[Job]) -> str:
    """Write job ids in brackets, arrays in short form: 15_[0-3], 16. Empty where no job has an id yet."""
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        if job.handle is not None:
            main, _, index = job.id.partition("_")
            arrays.setdefault(main, []).append(index)
    words = ", ".join(main if indices == [""] else f"{main}_[{_range(indices)}]" for main, indices in arrays.items())
    return f" ({queue.name} {words})" if words else ""


def _range(indices: Sequence[str]) -> str:
    whole = [int(index) for index in indices]
    consecutive = len(whole) > 1 and whole == list(range(whole[0], whole[0] + len(whole)))
    return f"{whole[0]}-{whole[-1]}" if consecutive else ",".join(indices)


def say(line: str) -> None:
    """Print a line for the waiting user."""
    print(line, file=sys.stderr, flush=True)
