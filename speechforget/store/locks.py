"""Let one process build a folder while the others wait and log for whom they wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from speechforget.progress import note
from speechforget.store.claims import Claim, make_claim
from speechforget.store.files import REFUSED, explained
from speechforget.store.holders import describe, read_record

logger = logging.getLogger(__name__)

# First and longest pause between two tries: many processes of a cluster may wait for one file.
POLL_S = (0.02, 2.0)
# Longest pause between two log lines.
LOG_S = 300.0

_held: dict[Path, Claim] = {}


def lock_file(folder: Path) -> Path:
    """Return the path of the lock file beside a folder."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def locked(folder: Path, lock: str = "flock", patience_s: float = 2.0, denied: str = REFUSED) -> Iterator[Claim]:
    """Hold the lock beside `folder`.

    After `patience_s` seconds of waiting, and then less and less often, log who holds the lock and since when.
    lock: flock or lease. Raises UserError, with the sentence `denied`, if the lock file cannot be written.
    """
    claim = make_claim(lock, lock_file(folder))
    with explained(folder, denied):
        _wait(folder, claim, patience_s)
    with _holding(folder, claim):
        yield claim


@contextmanager
def locked_if_free(folder: Path, lock: str = "flock") -> Iterator[Claim | None]:
    """Hold the lock beside `folder` if it is free; do not wait. Yield None if another process may hold it."""
    claim = make_claim(lock, lock_file(folder))
    with explained(folder):
        taken = claim.try_acquire()
    if not taken:
        yield None
        return
    with _holding(folder, claim):
        yield claim


@contextmanager
def _holding(folder: Path, claim: Claim) -> Iterator[None]:
    _held[folder.absolute()] = claim
    try:
        yield
    finally:
        del _held[folder.absolute()]
        claim.release()


def check_held(folder: Path) -> None:
    """Raise UserError if this process builds `folder` under a lease and has lost it.

    Cheap enough for long builds to call between two epochs.
    """
    claim = _held.get(folder.absolute())
    if claim is not None:
        claim.check()


def _wait(folder: Path, claim: Claim, patience_s: float) -> None:
    started, pause, interval = time.monotonic(), POLL_S[0], patience_s
    next_line = patience_s
    while not claim.try_acquire():
        waited = time.monotonic() - started
        note(doing=f"waits for {folder.name}", elapsed=waited)
        if waited >= next_line:
            found = read_record(lock_file(folder))
            logger.info(
                "Waiting for %s: %s, %s so far.",
                folder.name,
                _who_builds(found[1] if found else {}),
                _duration(waited),
            )
            interval = min(2 * interval, LOG_S)
            next_line = waited + interval
        time.sleep(pause)
        pause = min(1.3 * pause, POLL_S[1])


def _who_builds(record: dict[str, Any]) -> str:
    since = f" since {_clock(record['started'])}" if "started" in record else ""
    return f"{describe(record)} has been building it{since}"


def _clock(text: str) -> str:
    """Return a recorded time in this machine's time zone, with the date if it is not today."""
    moment = datetime.fromisoformat(text).astimezone()
    return moment.strftime("%H:%M" if moment.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
