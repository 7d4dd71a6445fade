"""One way to show how far a job has come: a bar with the time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class _Bar(tqdm):
    monitor_interval = 0  # tqdm's monitor is a thread, and threads do not survive a fork


class _Lines(_Bar):
    """The same without cursor movements, for logs: whole lines, none of them for a job that is done before the first is due."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints the state as a line of its own."""
        line = str(self) if msg is None else msg
        if line:
            print(line, file=sys.stderr, flush=True)


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    description: str = "",
    unit: str = "it",
    disable: bool = False,
) -> Any:
    """A progress bar on stderr: iterate over it, or use it as a context manager and call `update(count)`.

    total: how many `unit`s there are, where the iterable does not know. disable: show nothing (on all processes but the first, say).
    """
    options: dict[str, Any] = {
        "total": total,
        "desc": description,
        "unit": unit,
        "disable": disable,
        "leave": False,
        "file": sys.stderr,
    }
    if sys.stderr.isatty():
        return _Bar(iterable, dynamic_ncols=True, **options)
    return _Lines(
        iterable, ascii=True, ncols=100, delay=SECONDS_BETWEEN_LINES, mininterval=SECONDS_BETWEEN_LINES, **options
    )
