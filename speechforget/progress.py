"""Show progress: a bar with the remaining time on a terminal, a line every ten seconds elsewhere, a file for others.

The file belongs to `speechforget status`, which shows other processes what this one does, and for how long it will.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_NOTES = 2.0
RUNNING = "SPEECHFORGET_RUNNING"  # environment: the folder of notes, inherited by the workers of a run
JOB = "SPEECHFORGET_JOB"  # environment: the words of the run
FOLDER = "running"  # of the notes, in the output folder
NOTED = ("n", "total", "elapsed", "rate", "unit")

_last_note = 0.0


class _Bar(tqdm):
    monitor_interval = 0  # tqdm's monitor is a thread, which does not survive a fork

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the state, and note it for `speechforget status`."""
        about = self.format_dict
        note(doing=(self.desc or "").rstrip(": "), **{name: about[name] for name in NOTED})
        self.show(msg, pos)

    def show(self, msg: str | None, pos: int | None) -> None:
        """Draw the bar."""
        super().display(msg, pos)


class _Lines(_Bar):
    """Print whole lines for logs, without cursor movements, and none before the first ten seconds."""

    def show(self, msg: str | None, pos: int | None) -> None:
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


@contextlib.contextmanager
def noted(output: Path, job: str) -> Iterator[None]:
    """Let this process and its workers note what they do below `output`, until the end of a job.

    job: the words of the run, for readers.
    """
    os.environ[RUNNING], os.environ[JOB] = str(output.absolute() / FOLDER), job
    try:
        yield
    finally:
        _forget()
        os.environ.pop(RUNNING, None)


def note(**doing: Any) -> None:
    """Write what this process does, at most every two seconds.

    doing: doing (words), n of total `unit`s, elapsed (seconds), rate (units a second). A note that cannot be written is
    left out: it must not stop a run.
    """
    global _last_note  # one note for each process
    now = time.monotonic()
    if RUNNING not in os.environ or now - _last_note < SECONDS_BETWEEN_NOTES:
        return
    _last_note, path = now, _own()
    who = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get(JOB, "")}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**who, **doing, "updated": time.time()}), encoding="utf-8")
        part.replace(path)


def _own() -> Path:
    return Path(os.environ[RUNNING]) / f"{socket.gethostname()}-{os.getpid()}.json"


@atexit.register
def _forget() -> None:
    """Remove the note of this process, and the folder after the last one."""
    if RUNNING in os.environ:
        with contextlib.suppress(OSError):
            _own().unlink(missing_ok=True)
            _own().parent.rmdir()
