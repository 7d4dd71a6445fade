"""A way to ask what would be made, without making it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_looking: ContextVar[bool] = ContextVar("looking", default=False)


class NotMadeError(Exception):
    """What was asked for is not there, and was only to be looked for."""


@contextmanager
def looking() -> Iterator[None]:
    """Within it, caches that are not there raise NotMadeError instead of being made."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def only_looking(what: str | Path) -> None:
    """Raises NotMadeError within `looking`; to be called before something is made."""
    if _looking.get():
        raise NotMadeError(str(what))
