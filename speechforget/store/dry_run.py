"""Find out what a run would build without building it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_is_dry_run: ContextVar[bool] = ContextVar("is_dry_run", default=False)


class NotMadeError(Exception):
    """Signal that a dry run needs something that does not exist yet."""


@contextmanager
def dry_run() -> Iterator[None]:
    """Raise NotMadeError inside this context for missing caches, instead of building them."""
    token = _is_dry_run.set(True)
    try:
        yield
    finally:
        _is_dry_run.reset(token)


def refuse_in_dry_run(what: str | Path) -> None:
    """Raise NotMadeError inside `dry_run`; call it before building anything."""
    if is_dry_run():
        raise NotMadeError(str(what))


def is_dry_run() -> bool:
    """Return whether nothing may be built, as inside `dry_run`."""
    return _is_dry_run.get()
