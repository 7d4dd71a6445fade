"""Show progress: a bar with the remaining time on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class _Bar(tqdm):
    monitor_interval = 0  # tqdm's monitor is a thread, which does not survive a fork


class _Lines(_Bar):
    """Print whole lines for logs, without cursor movements, and none before the first ten seconds."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the state as one line."""
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
    """Return a progress bar on stderr: iterate over it, or use it as a context manager and call `update(count)`.

    total: number of `unit`s, if the iterable has no length. disable: show nothing, such as on ranks above 0.
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
