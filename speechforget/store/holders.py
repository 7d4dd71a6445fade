"""What a lock file says of its holder, and whether it is locked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_record(path: Path) -> tuple[str, Record] | None:
    """The text of a lock file and what it says (empty where that is not readable); None where there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise
    try:
        record = json.loads(text)
    except ValueError:
        record = {}
    return text, record if isinstance(record, dict) else {}


def who_holds(path: Path) -> Record | None:
    """Who seems to hold the lock file `path` (empty where it does not say); None where it is free. Takes and writes nothing."""
    found = read_record(path)
    if found is None:
        return None
    record = found[1]
    try:
        if record.get("kind") == "lease":
            return record if time.time() - path.stat().st_mtime < 2 * float(record["seconds"]) else None
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # given back meanwhile
        return None
    try:
        return None if try_flock_if_any(descriptor, fcntl.LOCK_SH) else record
    finally:
        os.close(descriptor)


def is_mine(record: Record | None) -> bool:
    """Whether a holder is this process."""
    return record is not None and (record.get("host"), record.get("pid")) == (socket.gethostname(), os.getpid())


def is_named(descriptor: int, path: Path) -> bool:
    """Whether `path` is still a name of the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def try_flock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the descriptor could be locked at once. Raises OSError where the file system has no flock."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.ESTALE}:  # ESTALE: removed on another machine a moment ago
            return False
        raise
    return True


def job() -> str | None:
    """The SLURM job that this process belongs to, as squeue names it."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def new_record(kind: str) -> Record:
    """What this process writes into a lock file that it holds."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "kind": kind,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job(),
        "started": started,
        "token": secrets.token_hex(8),
    }


def try_flock_if_any(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """A lease is flocked as well, where that works, so that processes with lock=flock keep out of it; False if such a one holds it."""
    try:
        return try_flock(descriptor, kind)
    except OSError:  # no flock here: nobody can be using it
        return True


def describe(record: Record) -> str:
    """A holder in words: its job, if it has one, process and machine."""
    if "pid" not in record:
        return "another process"
    process = f"process {record['pid']} on {record['host']}"
    return f"job {record['job']} ({process})" if record.get("job") else process
