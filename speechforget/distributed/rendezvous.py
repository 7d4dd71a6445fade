"""Let the ranks of one job find each other where SLURM, submitit or torchrun started several.

Rank 0 runs the command. Every other rank starts a worker that takes orders from rank 0 (see `group`), and restarts it
until rank 0 has finished. They meet through a file below the output folder, which all ranks of a job share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from speechforget.distributed.environment import JobRank
from speechforget.errors import UserError

PATIENCE_S = 300.0  # for rank 0 to appear, and for workers to connect
FINISHED, LOST = 0, 4  # exit codes of a worker: told to finish; rank 0 not found

DEVICE = "SPEECHFORGET_DEVICE"  # environment: the index of a worker's device on its machine


def meeting_file(output: str | Path, mine: JobRank) -> Path:
    """Return the path where rank 0 writes its address."""
    return Path(output).absolute() / "peers" / f"{mine.job}.json"


def serve(output: str | Path, mine: JobRank) -> None:
    """Work for rank 0 until it has finished, as every other rank does. Raises UserError where no rank 0 appears."""
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
            if code != LOST:  # rank 0 was there: wait as long for its next team
                started = time.monotonic()
        time.sleep(0.2)
    raise UserError(
        f"Rank {mine.rank} of {mine.world} found no rank 0 within {PATIENCE_S:.0f} s: "
        f"do all ranks see the folder {meeting.parent}?"
    )


def _read(meeting: Path) -> dict[str, str]:
    try:
        return json.loads(meeting.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not written yet
        return {}


def end_with(parent: int) -> None:
    """End this process when its parent is gone: a launcher's job would go on, and then wait minutes for another job."""
    name = "parent"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getpid() != parent and not any(thread.name == name for thread in threading.enumerate()):
        threading.Thread(target=watch, name=name, daemon=True).start()


def start_worker(rank: int, local_rank: int, host: str, port: int | str, secret: str) -> subprocess.Popen[bytes]:
    """Start a worker process for one rank, without the variables by which libraries detect SLURM or torchrun."""
    foreign = ("SLURM_", "SUBMITIT_", "TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_")
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"}
    single |= {"MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in single and not name.startswith(foreign)}
    path = os.pathsep.join(filter(None, sys.path))  # the same as here, so that a user's own method is found
    environment = {**kept, "PYTHONPATH": path, DEVICE: str(local_rank), "SPEECHFORGET_SECRET": secret}
    line = [sys.executable, "-m", "speechforget.stages.worker", str(rank), host, str(port)]
    return subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL)
