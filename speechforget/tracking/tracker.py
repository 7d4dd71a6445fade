"""What a tracker is, and what it is told: artefacts, rows of learning curves, and the content of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from speechforget.tracking.curves import Row
from speechforget.tracking.mirror import NOTHING_LOST
from speechforget.tracking.mirror_process import say_once


@dataclass(frozen=True)
class Run:
    """Describe an artefact to a tracker."""

    folder: Path
    key: str
    name: str
    group: str
    stage: str
    tags: Sequence[str]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """Hold a table of a result. A cell is a number, a text, None, or `{"wav": base64}`, a recording.

    drawn: how to draw it: `chart` (line, bar or confusion) and the column of each axis; empty for a table alone.
    title: of the drawing.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    drawn: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Comparison:
    """Hold a result for a tracker: columns and rows of its table, scalars by name, an image file, notes.

    plot: None if the image may not be shown. summary: more numbers and words by name: bands, audit, verdict. passes:
    rows of the curve of the method, with the level of the oracle. sheets: further tables and charts by name. headline:
    numbers that get panels of their own.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    scalars: Mapping[str, float]
    plot: Path | None
    notes: Sequence[str] = ()
    summary: Mapping[str, float | str] = field(default_factory=dict)
    passes: Sequence[Row] = ()
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    headline: Sequence[str] = ()


class Tracker(Protocol):
    """Show the run of one artefact."""

    def point(self, number: int, row: Row) -> None:
        """Show row `number` of the learning curve, from 0: name -> number, including `epoch` and `step`.

        A resumed run sends all rows again.
        """

    def compare(self, comparison: Comparison) -> None:
        """Show the comparison of a result."""

    def finish(self, failed: bool) -> None:
        """End the run; this is the last call."""


class Guarded:
    """Guard a tracker: its first failure is logged in one line, and it gets no more calls."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker | None = tracker

    def tell(self, call: str, make: Callable[[], Sequence[Any]]) -> None:
        """Call a function of the tracker with the arguments that `make` returns; a failure of `make` counts, too."""
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, call)(*make())
        except Exception as error:
            self.tracker = None
            say_once(f"The tracker failed ({type(error).__name__}: {error}). {NOTHING_LOST}")

    def point(self, number: int, row: Row) -> None:
        """See `Tracker`."""
        self.tell("point", lambda: (number, row))

    def compare(self, make: Callable[[], Comparison]) -> None:
        """Show what `make` returns; see `Tracker`."""
        self.tell("compare", lambda: (make(),))
