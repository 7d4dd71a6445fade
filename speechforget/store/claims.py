"""Claim the right to build a folder: with a `Flock`, or with a `Lease` if flock does not reach other machines.

Both are one file that names its holder. The system ends a flock together with its process. A heartbeat keeps a lease
alive. A waiting process takes it over after it has seen no heartbeat for `LEASE_S` seconds of its own monotonic clock,
so clocks of other machines, and clocks set back, do not matter.

The package `filelock` was tried instead; docs/identity.md, "Locks", says which guarantees it cannot keep.
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
from speechforget.store.holders import describe, is_named, new_record, read_record, try_flock, try_flock_if_supported

# After this time without a heartbeat, the holder counts as dead.
LEASE_S = 60.0
# Heartbeats in that time, so one every ten seconds.
BEATS = 6
# Wait after a takeover: the process that renamed last within this time holds the lease.
SETTLE_S = 1.0


class Claim(Protocol):
    """Declare the right to build one folder."""

    def try_acquire(self) -> bool:
        """Take the claim if it is free. Call it repeatedly: a lease expires only while somebody watches it."""

    def check(self) -> None:
        """Raise UserError if another process has taken the claim over."""

    def release(self) -> None:
        """Release the claim and remove its file."""


def make_claim(kind: str, path: Path) -> Claim:
    """Create a claim on the lock file `path`; kind is flock or lease."""
    kinds: dict[str, type[Flock] | type[Lease]] = {"flock": Flock, "lease": Lease}
    if kind not in kinds:
        raise UserError(f"lock is '{kind}': choose flock or lease (`speechforget store locks outputs` tests which).")
    return kinds[kind](path)


class _Watch:
    """Measure how long a text has not changed, by the monotonic clock of this process."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.since = 0.0

    def unchanged(self, text: str) -> float:
        if text != self.text:
            self.text, self.since = text, time.monotonic()
        return time.monotonic() - self.since


class Flock:
    """Claim by flock(2) on a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._watch = _Watch()

    def try_acquire(self) -> bool:
        """See `Claim`. Raises UserError if the file system has no flock."""
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
        # If the file was removed between opening and locking it, this lock excludes nobody.
        if found is None or not is_named(descriptor, self.path):
            return False
        text, record = found
        if record.get("kind") == "lease":
            if self._watch.unchanged(text) >= float(record["seconds"]):
                # If the holder is alive after all, it must notice the loss. The next try creates a new file.
                self.path.unlink()
            return False
        return True

    def check(self) -> None:
        """Do nothing: a living process cannot lose a flock."""

    def release(self) -> None:
        """See `Claim`.

        It is safe to remove the file before unlocking it: a process that locks it later finds it without a name and
        starts over.
        """
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


class Lease:
    """Claim by a file that the holder keeps rewriting.

    The file system needs only exclusive creation and atomic renaming.
    """

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
        if not try_flock_if_supported(self._descriptor):
            os.close(self._descriptor)
            return False
        try:
            return self._begin()
        except OSError:  # for example a full disk
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
        """Replace the file of a dead holder."""
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
            # The file of a flock, or an empty file, which a new holder may be about to fill.
            expired = try_flock_if_supported(old) and (record.get("kind") == "flock" or still >= self.seconds)
            return expired and self._replace(text, settle=False)
        finally:
            os.close(old)

    def _replace(self, text: str, settle: bool) -> bool:
        temporary = self.path.with_name(f".{self.path.name}.{self._record['token']}")
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try_flock_if_supported(self._descriptor)
            self._beats = 0
            self._write()
            found = read_record(self.path)
            won = found is not None and found[0] == text
            if won:
                temporary.rename(self.path)
                # Two processes that found the same holder dead both get here; the second rename wins.
                if settle:
                    time.sleep(min(SETTLE_S, self.seconds / 4))
                    won = self._is_mine()
        finally:
            temporary.unlink(missing_ok=True)
        if not won:
            os.close(self._descriptor)
        return won and self._begin()

    def _write(self) -> None:
        # Write through the descriptor: a holder that lost its lease then writes to a file without a name.
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
            except OSError:  # the file system may be away for a while; `check` decides how long is too long
                continue

    def _is_certain(self) -> bool:
        """Return whether nobody can have taken the lease over.

        That holds if the file is still this claim's and its last heartbeat is recent.
        """
        try:
            self._beat()
        except OSError:
            return not self._lost and time.monotonic() - self._fresh < self.seconds / 2
        return not self._lost

    def check(self) -> None:
        """See `Claim`."""
        if self._is_certain():
            return
        name, found = self.path.name.removesuffix(".lock"), read_record(self.path)
        if not self._lost:
            raise UserError(
                f"The lease on {name} could not be renewed ({self.path} cannot be written): run the same command again."
            )
        who = describe(found[1]) if found else "another process"
        raise UserError(
            f"This process gave no heartbeat for {self.seconds:.0f} s, so {who} took over {name}: "
            "the work of this process on it is dropped; run the same command again."
        )

    def release(self) -> None:
        """See `Claim`. Remove the file only if it is certainly this claim's; otherwise it is another's or expires."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_certain():
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
