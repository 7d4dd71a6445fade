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
from pathlib import Path

from speechforget.distributed.environment import Place
from speechforget.errors import UserError

PATIENCE_S = 300.0  # that a task waits for task 0 to appear
FINISHED, LOST = 0, 4  # how a worker ends: told to, or without having found task 0

DEVICE = "SPEECHFORGET_DEVICE"  # the number of a worker among those of its machine


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
    raise UserError(
        f"Task {mine.rank} of {mine.world} found no task 0 within {PATIENCE_S:.0f} s: do all tasks see the folder {meeting.parent}?"
    )


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
    single = {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "GROUP_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
    environment = {
        name: value for name, value in os.environ.items() if name not in single and not name.startswith(foreign)
    }
    # Python runs with the same path as here, so a user's own method is found there, too.
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        DEVICE: str(local_rank),
        "SPEECHFORGET_SECRET": secret,
    }
    line = [sys.executable, "-m", "speechforget.stages.worker", str(rank), host, str(port)]
    return subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL)
