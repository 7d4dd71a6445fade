"""Run jobs on SLURM: submit arrays through submitit, watch them with squeue, and ask sacct how a missing job ended.

Only squeue decides whether a job is alive: a requeued job never counts as ended, and no accounting is needed.
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
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import speechforget
from speechforget.config.ranges import number, whole
from speechforget.errors import UserError
from speechforget.launchers.jobs import Job
from speechforget.launchers.queue import Sight

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
WAITING |= {"SUSPENDED"}
ENDS = ("CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "COMPLETED")
SURE_S, LOST_S = 6.0, 60.0  # without a result: until accounting is trusted; until a job is given up without it
ARRAY = 1000  # jobs of an array; SLURM's default limit
STRAGGLERS_S = 60  # for the other ranks of a job after the first one has ended
TRIES = 3
# srun sometimes starts nothing: two on a node take the same port (SrunPortRange), or the controller is busy. Nothing is
# lost then, and a second try mostly works. A rank records its start in a file, since srun's exit codes do not tell.
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
    """Implement `queue.Queue` on SLURM."""

    name = "SLURM job"
    patience = 10.0

    def __init__(self, folder: Path) -> None:
        import_submitit("slurm")
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "launch=slurm needs sbatch and srun on this machine; "
                "launch=submitit_local runs the same jobs here without SLURM."
            )
        self.folder = folder

    def submit(self, jobs: Sequence[Job], after: Sequence[Job]) -> None:
        """Submit jobs of the same size as one array."""
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
            with outside_of_jobs(), uninterrupted(), redirect_stderr(StringIO()):  # submitit also prints the error
                for job, handle in zip(jobs, executor.submit_array([job.work for job in jobs]), strict=True):
                    job.handle = handle
        except (FailedJobError, FailedSubmissionError) as error:
            said = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines()]
            raise UserError(
                f"SLURM refused the jobs: {'; '.join(filter(None, said)) or 'it gave no reason'}"
            ) from error

    def look(self, jobs: Sequence[Job]) -> dict[Job, Sight]:
        """Ask for all jobs of the user at once: squeue fails for ids that it has forgotten."""
        line = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r"]
        asked = subprocess.run(line, capture_output=True, text=True, check=False)
        if asked.returncode:  # the controller is busy or restarts: assume that nothing has ended
            return {job: Sight("waiting", "squeue does not answer") for job in jobs}
        rows = {row[0]: row[1:] for text in asked.stdout.splitlines() if len(row := text.split("|")) == 3}
        return {job: _sight(*rows[job.id]) if job.id in rows else Sight("gone") for job in jobs}

    def fate(self, job: Job, missing: float) -> tuple[str, str] | None:
        """Ask accounting, once it can be trusted; else the controller, which forgets after some minutes."""
        state = accounted(job.id) or (remembered(job.id) if missing > SURE_S else "")
        word = state.split(" ")[0]
        sure = missing > (LOST_S if word == "COMPLETED" else SURE_S)
        if state.startswith("CANCELLED by ") or (word in ENDS and sure):
            return _verdict(job, state)
        if missing > LOST_S:
            known = f"accounting: {state}" if state else "accounting has no record of it"
            return "failed", f"SLURM job {job.id} is gone without a result ({known}){job.last_words}{job.log}"
        return None

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs by their ids."""
        subprocess.run(["scancel", *(job.id for job in jobs)], check=False)


def _sight(state: str, reason: str) -> Sight:
    if state in WAITING:
        return Sight("waiting", "" if reason == "None" else reason)
    return Sight("ending" if state in ("COMPLETING", *ENDS) else "running")


def accounted(job: str) -> str:
    """Return a job's state from sacct; empty without accounting, or before it knows the job."""
    try:
        line = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job}"]
        asked = subprocess.run(line, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip().partition("\n")[0] if asked.returncode == 0 else ""


def remembered(job: str) -> str:
    """Return an ended job's state from the controller, which forgets it after MinJobAge (300 s by default); then empty.

    SLURM sometimes cancels a waiting job of an array without telling accounting.
    """
    try:
        line = ["scontrol", "show", "job", "--oneliner", job]
        asked = subprocess.run(line, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    found = re.search(r"\bJobState=(\w+)", asked.stdout) if asked.returncode == 0 else None
    state = found[1] if found else ""
    return f"{state} by somebody" if state == "CANCELLED" else state


def _verdict(job: Job, state: str) -> tuple[str, str]:
    if state.startswith("CANCELLED by "):  # plain CANCELLED: SLURM itself ended it, as after losing a node
        return "cancelled", f"SLURM job {job.id} was cancelled ({state}){job.log}"
    hint = {
        "OUT_OF_MEMORY": "; ask for more with launch.memory_gb",
        "TIMEOUT": "; ask for more time with launch.minutes, or more notice with launch.notice_seconds",
    }.get(state, "")
    return "failed", f"SLURM job {job.id} ended without a result ({state}{hint}){job.last_words}{job.log}"


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return submitit's parameters of one job: its size from `trainer`, the rest from `launch`. Raises UserError."""
    trainer, launch = config["trainer"], config["launch"]
    check_launch(launch)
    devices = trainer["devices"]
    together = [f"--wait={STRAGGLERS_S}", "--kill-on-bad-exit=0"]  # rank 0 decides what a lost rank means
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
        # Since SLURM 22.05 srun does not inherit the number of cores from sbatch.
        "slurm_srun_args": ["--export=ALL", f"--cpus-per-task={trainer['threads']}", *together],
        "slurm_additional_parameters": {
            "requeue": True,
            **{name.replace("-", "_"): value for name, value in launch["more"].items()},
        },
    }


def check_launch(launch: Mapping[str, Any]) -> None:
    """Raise UserError for the first wrong number."""
    for name, low in (("minutes", 1), ("jobs_at_once", 1), ("restarts", 0), ("notice_seconds", 1)):
        whole(launch, name, low, "launch.")
    if launch["memory_gb"] is not None:
        number(launch, "memory_gb", 0.1, 1e5, "launch.")
    # SLURM may give notice a minute early: such a job would be requeued before it did anything.
    if 60 * (launch["minutes"] - 1) < launch["notice_seconds"]:
        raise UserError("launch.minutes must exceed launch.notice_seconds by at least a minute.")


def python_path() -> str:
    """Return a PYTHONPATH with which a job imports this very speechforget, from any current folder.

    A job runs the same interpreter, so an installed package needs no entry.
    """
    root = Path(speechforget.__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    roots = [] if root in installed else [str(root)]
    given = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.pathsep.join(dict.fromkeys([*roots, *given]))


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the surrounding SLURM job, from which sbatch would take the size of the new job."""
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
    """Defer Ctrl-C until sbatch has returned job ids, so no submitted job is left running."""
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
    """Raise UserError where submitit or Hydra's launcher for it is missing."""
    try:
        import hydra_plugins.hydra_submitit_launcher  # noqa: F401
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(f'launch={choice} needs hydra-submitit-launcher: pip install -e ".[slurm]"') from error
