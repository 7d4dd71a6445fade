"""Which task of a job this process is, where a cluster or torchrun started several; read from the environment alone.

Task 0 runs the command. Every other task starts a worker that takes orders from task 0 (see `team.py`), and starts it again while task 0 goes on.
They meet through a file below the output folder, which all tasks of a job share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechforget.errors import UserError

PATIENCE_S = 300.0  # that a task waits for task 0 to appear
FINISHED, LOST = 0, 4  # how a worker ends: told to, or without having found task 0

DEVICE = "SPEECHFORGET_DEVICE"  # the number of a worker among those of its machine


@dataclass(frozen=True)
class Place:
    """rank of world tasks, local_rank on this machine. job: the same for all tasks of one start of a job, and for nothing else."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    job: str = ""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place among the tasks of its job: of torchrun (or whatever sets RANK and WORLD_SIZE), submitit on this machine, or srun."""
    get = environment.get
    if "RANK" in environment and "WORLD_SIZE" in environment and "MASTER_ADDR" in environment:
        job = ["torchrun", get("TORCHELASTIC_RUN_ID", ""), get("MASTER_ADDR", ""), get("MASTER_PORT", ""), get("TORCHELASTIC_RESTART_COUNT", "")]
        return _place("RANK", "WORLD_SIZE", "LOCAL_RANK", job, environment)
    if get("SUBMITIT_EXECUTOR") == "local" and "SUBMITIT_LOCAL_GLOBALID" in environment:
        job = ["local", get("SUBMITIT_LOCAL_JOB_ID", ""), get("SPEECHFORGET_START", "")]
        return _place("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID", job, environment)
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:  # a batch script itself is no step
        job = ["slurm", get("SLURM_JOB_ID", ""), get("SLURM_STEP_ID", ""), get("SLURM_RESTART_COUNT", "0")]
        return _place("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", job, environment)
    return Place()


def _place(rank: str, world: str, local_rank: str, job: list[str], environment: Mapping[str, str]) -> Place:
    return Place(int(environment[rank]), int(environment.get(world, "1")), int(environment.get(local_rank, "0")), "-".join(filter(None, job)))


def meeting_file(output: str | Path, mine: Place) -> Path:
    """Where task 0 says how to reach it."""
    return Path(output).absolute() / "peers" / f"{mine.job}.json"


def serve(output: str | Path, mine: Place) -> None:
    """What a task other than 0 does: works for task 0 until that has finished. Raises UserError where there is no task 0."""
    meeting = meeting_file(output, mine)
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        found = _read(meeting)
        if found.get("finished"):
            return
        if found:
            code = start_worker(mine.rank, mine.local_rank, found["host"], found["port"], found["secret"]).wait()
            if code == FINISHED:
                return
            if code != LOST:  # it had found task 0
                started = time.monotonic()
        time.sleep(0.2)
    raise UserError(f"Task {mine.rank} of {mine.world} found no task 0 within {PATIENCE_S:.0f} s: do all tasks see the folder {meeting.parent}?")


def _read(meeting: Path) -> dict[str, str]:
    try:
        return json.loads(meeting.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet
        return {}


def end_with(parent: int) -> None:
    """Ends this process when `parent`, which started it, is gone: a job of a launcher would go on, and then wait for another one for minutes."""
    name = "parent"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getpid() != parent and not any(thread.name == name for thread in threading.enumerate()):
        threading.Thread(target=watch, name=name, daemon=True).start()


def start_worker(rank: int, local_rank: int, host: str, port: int | str, secret: str) -> subprocess.Popen[bytes]:
    """A worker process for one rank, with nothing in its environment that would tell a library of SLURM or torchrun."""
    foreign = ("SLURM_", "SUBMITIT_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in single and not name.startswith(foreign)}
    # Python runs with the same path as here, so a user's own method is found there, too.
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), DEVICE: str(local_rank), "SPEECHFORGET_SECRET": secret}
    line = [sys.executable, "-m", "speechforget.worker", str(rank), host, str(port)]
    return subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL)
