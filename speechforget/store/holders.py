"""Read who holds a lock file, and test whether it is locked."""

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
    """Return the text of a lock file and its parsed record; None if the file does not exist.

    The record is empty if the text is not a JSON object.
    """
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
    """Return the record of the apparent holder of a lock file; None if it is free. Never locks or writes.

    The record is empty if the file does not name its holder.
    """
    found = read_record(path)
    if found is None:
        return None
    record = found[1]
    try:
        if record.get("kind") == "lease":
            return record if time.time() - path.stat().st_mtime < 2 * float(record["seconds"]) else None
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # released meanwhile
        return None
    try:
        return None if try_flock_if_supported(descriptor, fcntl.LOCK_SH) else record
    finally:
        os.close(descriptor)


def is_mine(record: Record | None) -> bool:
    """Return whether this process wrote a record."""
    return record is not None and (record.get("host"), record.get("pid")) == (socket.gethostname(), os.getpid())


def is_named(descriptor: int, path: Path) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def try_flock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Try to lock a descriptor without waiting. Raises OSError if the file system has no flock."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        # ESTALE: another machine has just removed the file.
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.ESTALE}:
            return False
        raise
    return True


def try_flock_if_supported(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Try to lock a descriptor; also return True if the file system has no flock.

    A lease takes the flock too, if there is one, so that processes with lock=flock stay out.
    """
    try:
        return try_flock(descriptor, kind)
    except OSError:  # without flock, nobody can hold one
        return True


def slurm_job() -> str | None:
    """Return the SLURM job of this process, in the form that squeue prints."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def new_record(kind: str) -> Record:
    """Return the record that this process writes into a lock file that it holds."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "kind": kind,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": slurm_job(),
        "started": started,
        "token": secrets.token_hex(8),
    }


def describe(record: Record) -> str:
    """Describe a holder by its job (if any), process and machine."""
    if "pid" not in record:
        return "another process"
    process = f"process {record['pid']} on {record['host']}"
    return f"job {record['job']} ({process})" if record.get("job") else process
