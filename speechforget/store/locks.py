"""One process makes a folder; the others wait, and say for whom."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from speechforget.store.claims import Claim, make_claim
from speechforget.store.files import REFUSED, explained
from speechforget.store.holders import describe, read_record

logger = logging.getLogger(__name__)

POLL_S = (0.02, 2.0)  # first and longest pause between two tries: many processes of a cluster may wait for one file
SAY_S = 300.0  # longest pause between two lines about it

_held: dict[Path, Claim] = {}


def lock_file(folder: Path) -> Path:
    """The file beside a folder that says who is making it."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def locked(folder: Path, lock: str = "flock", patience_s: float = 2.0, denied: str = REFUSED) -> Iterator[Claim]:
    """Holds the lock beside `folder`; says whom it waits for, and since when, after `patience_s` seconds and then less and less often.

    lock: flock or lease. Raises UserError, with the sentence `denied`, where the lock's file cannot be written.
    """
    claim = make_claim(lock, lock_file(folder))
    with explained(folder, denied):
        _wait(folder, claim, patience_s)
    _held[folder.absolute()] = claim
    try:
        yield claim
    finally:
        del _held[folder.absolute()]
        claim.release()


def check_held(folder: Path) -> None:
    """Raises UserError where this process made `folder` under a lease, and lost it. Cheap; for long builds, between two epochs."""
    claim = _held.get(folder.absolute())
    if claim is not None:
        claim.check()


def _wait(folder: Path, claim: Claim, patience_s: float) -> None:
    started, pause, say = time.monotonic(), POLL_S[0], patience_s
    next_line = patience_s
    while not claim.try_acquire():
        waited = time.monotonic() - started
        if waited >= next_line:
            found = read_record(lock_file(folder))
            logger.info(
                "Waiting for %s, which %s, %s so far.",
                folder.name,
                _story(found[1] if found else {}),
                _duration(waited),
            )
            say = min(2 * say, SAY_S)
            next_line = waited + say
        time.sleep(pause)
        pause = min(1.3 * pause, POLL_S[1])


def _story(record: dict[str, Any]) -> str:
    since = f" since {_clock(record['started'])}" if "started" in record else ""
    return f"{describe(record)} is making{since}"


def _clock(text: str) -> str:
    """A recorded time on this machine's clock, with the date if that is not today's."""
    moment = datetime.fromisoformat(text).astimezone()
    return moment.strftime("%H:%M" if moment.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
