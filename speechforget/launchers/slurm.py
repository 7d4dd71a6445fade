"""SLURM as a queue of jobs: arrays through submitit, watched with squeue, with sacct's word on what is gone.

squeue alone is asked whether a job lives, so a requeued job is never taken for an ended one, and a cluster without accounting works, too.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import speechforget
from speechforget.config.validate import number, whole
from speechforget.errors import UserError
from speechforget.launchers.jobs import Job, Sight

ENDS = ("CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "COMPLETED")
SURE_S, LOST_S = 6.0, 60.0  # without a result: for accounting's word to be taken; before a job is given up without it
ARRAY = 1000  # jobs of an array; SLURM's own limit where nobody has raised it
STRAGGLERS_S = 60  # that the tasks of a job may go on after the first of them has ended
TRIES = 3
# srun at times starts nothing: two on a node that want the same port (SrunPortRange), a controller that is busy. Then nothing is lost yet, and a
# second try mostly goes well. Whether a task began is its own word, since srun's exit codes do not tell.
BEGIN = """bash -c ': > "$SPEECHFORGET_BEGUN"; exec "$@"' task"""
START_AGAIN = f"""\
srun() {{
  export SPEECHFORGET_BEGUN="$begun.$SLURM_JOB_ID"
  local code try
  for try in $(seq {TRIES}); do
    rm -f "$SPEECHFORGET_BEGUN"
    command srun "$@" && code=0 || code=$?
    if [ -e "$SPEECHFORGET_BEGUN" ] || [ "$try" = {TRIES} ]; then break; fi
    echo "SLURM has started nothing (exit code $code of srun, try $try of {TRIES})."
    sleep $((try * 2 + RANDOM % 3))
  done
  rm -f "$SPEECHFORGET_BEGUN"
  return "$code"
}}"""


class Slurm:
    """See `_jobs.Queue`."""

    name = "SLURM job"
    patience = 10.0

    def __init__(self, folder: Path) -> None:
        import_submitit("slurm")
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "launch=slurm needs sbatch and srun on this machine; launch=submitit_local runs the same jobs here without SLURM."
            )
        self.folder = folder

    def submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        """Jobs of the same size are an array."""
        sizes: dict[str, list[Job]] = {}
        for job in jobs:
            sizes.setdefault(json.dumps(parameters(job.config), sort_keys=True), []).append(job)
        for group in sizes.values():
            for start in range(0, len(group), ARRAY):
                self._submit(group[start : start + ARRAY], after)

    def _submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        launch, options = jobs[0].config["launch"], parameters(jobs[0].config)
        options["name"] = "speechforget-first" if jobs[0].stage else "speechforget"
        if after:
            options["slurm_dependency"] = ":".join(["afterany", *sorted({job.id.partition("_")[0] for job in after})])
        options["slurm_setup"] += [f"begun={shlex.quote(str(self.folder.absolute() / 'begun'))}", START_AGAIN]
        python = f"{BEGIN} {shlex.quote(sys.executable)}"
        executor = AutoExecutor(
            self.folder, cluster="slurm", slurm_max_num_timeout=launch["restarts"], slurm_python=python
        )
        executor.update_parameters(**options)
        try:
            with outside_of_jobs(), uninterrupted(), redirect_stderr(StringIO()):  # submitit prints what it raises
                for job, handle in zip(jobs, executor.submit_array([job.work for job in jobs]), strict=True):
                    job.handle = handle
        except (FailedJobError, FailedSubmissionError) as error:
            said = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines()]
            raise UserError(
                f"SLURM refused the jobs: {'; '.join(filter(None, said)) or 'it gave no reason'}"
            ) from error

    def look(self, jobs: Sequence[Job]) -> dict[Job, Sight]:
        """All the user's jobs at once: a call that names ids fails when the last of them is gone."""
        line = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r"]
        asked = subprocess.run(line, capture_output=True, text=True, check=False)
        if asked.returncode:  # a controller that is busy or restarts: nothing is known, so nothing has ended
            return {job: Sight("waiting", "squeue does not answer") for job in jobs}
        rows = {row[0]: row[1:] for text in asked.stdout.splitlines() if len(row := text.split("|")) == 3}
        return {job: _sight(*rows[job.id]) if job.id in rows else Sight("gone") for job in jobs}

    def fate(self, job: Job, missing: float) -> tuple[str, str] | None:
        """What accounting says, once that can be trusted; where it knows nothing, what the controller remembers for some minutes."""
        state = accounted(job.id) or (remembered(job.id) if missing > SURE_S else "")
        word = state.split(" ")[0]
        sure = missing > (LOST_S if word == "COMPLETED" else SURE_S)
        if state.startswith("CANCELLED by ") or (word in ENDS and sure):
            return _verdict(job, state)
        if missing > LOST_S:
            known = f"accounting says {state}" if state else "accounting, if there is any, knows nothing of it"
            return "failed", f"SLURM job {job.id} is gone and left no result ({known}){job.last_words}{job.log}"
        return None

    def cancel(self, jobs: Sequence[Job]) -> None:
        """By their ids."""
        subprocess.run(["scancel", *(job.id for job in jobs)], check=False)


def _sight(state: str, reason: str) -> Sight:
    if state in (
        "PENDING",
        "CONFIGURING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
        "SUSPENDED",
    ):
        return Sight("waiting", "" if reason == "None" else reason)
    return Sight("ending" if state in ("COMPLETING", *ENDS) else "running")


def accounted(job: str) -> str:
    """A job's state by sacct; empty where there is no accounting, or none yet of this job."""
    try:
        line = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job}"]
        asked = subprocess.run(line, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip().partition("\n")[0] if asked.returncode == 0 else ""


def remembered(job: str) -> str:
    """The state of a job that has ended, as the controller knows it for MinJobAge (300 seconds unless set); empty when it is forgotten.

    At times SLURM cancels a waiting task of an array without a word to accounting.
    """
    try:
        asked = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    found = re.search(r"\bJobState=(\w+)", asked.stdout) if asked.returncode == 0 else None
    state = found[1] if found else ""
    return f"{state} by somebody" if state == "CANCELLED" else state


def _verdict(job: Job, state: str) -> tuple[str, str]:
    if state.startswith(
        "CANCELLED by "
    ):  # without the last words SLURM itself ended it, as where it lost sight of a job
        return "cancelled", f"SLURM job {job.id} was cancelled ({state}){job.log}"
    hint = {
        "OUT_OF_MEMORY": "; ask for more with launch.memory_gb",
        "TIMEOUT": "; ask for more time with launch.minutes, or more notice with launch.notice_seconds",
    }.get(state, "")
    return "failed", f"SLURM job {job.id} ended without a result ({state}{hint}){job.last_words}{job.log}"


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What submitit's executor is told of one job: its size from `trainer`, the rest from `launch`. Raises UserError."""
    trainer, launch = config["trainer"], config["launch"]
    check_launch(launch)
    devices = trainer["devices"]
    together = [f"--wait={STRAGGLERS_S}", "--kill-on-bad-exit=0"]  # task 0 itself decides what a lost task means
    return {
        "nodes": trainer["nodes"],
        "tasks_per_node": devices,
        "cpus_per_task": trainer["threads"],
        "gpus_per_node": devices if trainer["accelerator"] == "gpu" else None,
        "timeout_min": launch["minutes"],
        "mem_gb": launch["memory_gb"],
        "stderr_to_stdout": True,
        **{f"slurm_{name}": launch[name] for name in ("partition", "account", "qos", "constraint")},
        "slurm_signal_delay_s": launch["notice_seconds"],
        "slurm_array_parallelism": launch["jobs_at_once"],
        "slurm_setup": [f"export PYTHONPATH={shlex.quote(python_path())}", *launch["setup"]],
        # Since SLURM 22.05 srun does not take the number of cores from sbatch.
        "slurm_srun_args": ["--export=ALL", f"--cpus-per-task={trainer['threads']}", *together],
        "slurm_additional_parameters": {
            "requeue": True,
            **{name.replace("-", "_"): value for name, value in launch["more"].items()},
        },
    }


def check_launch(launch: Mapping[str, Any]) -> None:
    """Raises UserError for the first number that cannot be right."""
    for name, low in (("minutes", 1), ("jobs_at_once", 1), ("restarts", 0), ("notice_seconds", 1)):
        whole(launch, name, low, "launch.")
    if launch["memory_gb"] is not None:
        number(launch, "memory_gb", 0.1, 1e5, "launch.")
    if (
        60 * (launch["minutes"] - 1) < launch["notice_seconds"]
    ):  # SLURM gives notice up to a minute early: a job would never do anything
        raise UserError(
            "launch.minutes must be at least a minute more than launch.notice_seconds, when a job goes back into the queue."
        )


def python_path() -> str:
    """So that a job imports this very checkout, wherever the command was given."""
    roots = [Path(sys.argv[0]).resolve().parent, Path(speechforget.__file__).resolve().parents[1]]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*map(str, roots), *(str(Path(path).absolute()) for path in given if path)]))


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Where the command itself runs in a job, sbatch must not take that job's size from the environment for the new one's."""
    inside = "SLURM_JOB_ID" in os.environ
    names = [
        name
        for name in os.environ
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF"
    ]
    hidden = {name: os.environ.pop(name) for name in names if inside}
    try:
        yield
    finally:
        os.environ |= hidden


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits, for sbatch too, until it is known what was handed in: what nobody knows of nobody would cancel."""
    heard: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if heard:
            raise KeyboardInterrupt


def import_submitit(choice: str) -> None:
    """Raises UserError where it is missing."""
    try:
        import hydra_plugins.hydra_submitit_launcher  # noqa: F401
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(f'launch={choice} needs hydra-submitit-launcher: pip install -e ".[slurm]"') from error
