"""What a process holds while it makes a folder: a `Flock`, or a `Lease` where flock does not reach other machines.

Both are one file, which names its holder. A flock is the system's and ends with the process. A lease is kept by a heartbeat; whoever sees it stand
still for `LEASE_S` seconds of their own monotonic clock takes it over, so no clock of another machine, and no clock set back, matters.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Protocol

from speechforget.errors import UserError
from speechforget.store.holders import describe, is_named, new_record, read_record, try_flock, try_flock_if_any

LEASE_S = 60.0  # a heartbeat that stands still for this long is a dead holder's; ten seconds between two beats
BEATS = 6  # in that time
SETTLE_S = 1.0  # after a takeover: who renamed last within this time has it


class Claim(Protocol):
    """The right to make one folder."""

    def try_acquire(self) -> bool:
        """Takes it if it is free; to be called again and again (a lease expires only before the eyes of who waits)."""

    def check(self) -> None:
        """Raises UserError when another process has taken it over."""

    def release(self) -> None:
        """Gives it back and removes the file."""


def make_claim(kind: str, path: Path) -> Claim:
    """The claim of a kind, flock or lease, on the lock file `path`."""
    kinds: dict[str, type[Flock] | type[Lease]] = {"flock": Flock, "lease": Lease}
    if kind not in kinds:
        raise UserError(
            f"lock is '{kind}': choose flock or lease (python -m speechforget.store locks outputs says which)."
        )
    return kinds[kind](path)


class _Watch:
    """How long a text has been seen unchanged, by this process's monotonic clock."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.since = 0.0

    def unchanged(self, text: str) -> float:
        if text != self.text:
            self.text, self.since = text, time.monotonic()
        return time.monotonic() - self.since


class Flock:
    """flock(2) on a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._watch = _Watch()

    def try_acquire(self) -> bool:
        """See `Claim`. Raises UserError where the file system has no flock."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if self._locks(descriptor):
                text = json.dumps(new_record("flock")) + "\n"
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, text.encode(), 0)
                self._descriptor = descriptor
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)
        return self._descriptor >= 0

    def _locks(self, descriptor: int) -> bool:
        try:
            if not try_flock(descriptor):
                return False
        except OSError as error:
            if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}:
                raise UserError(
                    f"The file system of {self.path.parent} has no flock ({error.strerror}): use lock=lease."
                ) from error
            raise
        found = read_record(self.path)
        # The file can have been removed between opening and locking it: such a lock keeps nobody out.
        if found is None or not is_named(descriptor, self.path):
            return False
        text, record = found
        if record.get("kind") == "lease":
            if self._watch.unchanged(text) >= float(record["seconds"]):
                self.path.unlink()  # its holder, should it live, must not find this file; the next try makes a new one
            return False
        return True

    def check(self) -> None:
        """A flock is not lost while its holder lives."""

    def release(self) -> None:
        """See `Claim`. Removing the file before unlocking is safe: who locks it later finds that it has no name any more, and starts over."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


class Lease:
    """A file that its holder keeps changing. Needs nothing of the file system but exclusive creation and renaming."""

    def __init__(self, path: Path, seconds: float | None = None) -> None:
        self.path = path
        self.seconds = LEASE_S if seconds is None else seconds
        self._watch = _Watch()
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    def try_acquire(self) -> bool:
        """See `Claim`."""
        self._record = {**new_record("lease"), "seconds": self.seconds}
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return self._take_over()
        if not try_flock_if_any(self._descriptor):
            os.close(self._descriptor)
            return False
        try:
            return self._begin()
        except OSError:  # a full disk
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise

    def _begin(self) -> bool:
        self._beats, self._lost = 0, False
        self._beat()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_beating, name=f"lease of {self.path.name}", daemon=True)
        self._thread.start()
        return not self._lost

    def _take_over(self) -> bool:
        """Replaces the file of a holder that is dead."""
        found = read_record(self.path)
        if found is None:
            return False
        text, record = found
        still = self._watch.unchanged(text)
        if record.get("kind") == "lease":
            return still >= float(record["seconds"]) and self._replace(text, settle=True)
        try:
            old = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            # A flock's file; or an empty one, which a lease's holder could be about to write.
            expired = try_flock_if_any(old) and (record.get("kind") == "flock" or still >= self.seconds)
            return expired and self._replace(text, settle=False)
        finally:
            os.close(old)

    def _replace(self, text: str, settle: bool) -> bool:
        temporary = self.path.with_name(f".{self.path.name}.{self._record['token']}")
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try_flock_if_any(self._descriptor)
            self._beats = 0
            self._write()
            found = read_record(self.path)
            won = found is not None and found[0] == text
            if won:
                temporary.rename(self.path)
                if settle:  # two that judged the same holder dead both get here; the second rename wins
                    time.sleep(min(SETTLE_S, self.seconds / 4))
                    won = self._is_mine()
        finally:
            temporary.unlink(missing_ok=True)
        if not won:
            os.close(self._descriptor)
        return won and self._begin()

    def _write(self) -> None:
        # Rewritten in place through the descriptor: a holder that lost its lease writes to a file without a name.
        text = json.dumps({**self._record, "beat": f"{self._beats:012d}"}) + "\n"
        os.pwrite(self._descriptor, text.encode(), 0)
        os.fsync(self._descriptor)

    def _is_mine(self) -> bool:
        found = read_record(self.path)
        return found is not None and found[1].get("token") == self._record["token"]

    def _beat(self) -> None:
        with self._mutex:
            if self._lost:
                return
            self._beats += 1
            begun = time.monotonic()
            self._write()
            if self._is_mine():
                self._fresh = begun
            else:
                self._lost = True

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.seconds / BEATS) and not self._lost:
            try:
                self._beat()
            except OSError:  # a file system that is away for a while; `check` judges how long
                continue

    def _certain(self) -> bool:
        """Whether nobody can have found the heartbeat standing still: the file is this claim's, and its last beat is not old."""
        try:
            self._beat()
        except OSError:
            return not self._lost and time.monotonic() - self._fresh < self.seconds / 2
        return not self._lost

    def check(self) -> None:
        """See `Claim`."""
        if self._certain():
            return
        name, found = self.path.name.removesuffix(".lock"), read_record(self.path)
        if not self._lost:
            raise UserError(
                f"The lease on {name} could not be renewed ({self.path} cannot be written): run the same command again."
            )
        who = describe(found[1]) if found else "another process"
        raise UserError(
            f"This process was not heard of for {self.seconds:.0f} s, so {who} took over {name}: what this one made of it is dropped; "
            "run the same command again."
        )

    def release(self) -> None:
        """See `Claim`. Removes the file only while it is certainly this claim's; else it belongs to another, or expires."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._certain():
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
