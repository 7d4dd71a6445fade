"""The learning curve of an artefact: `curves.csv` in its folder, one row for each epoch or pass. Trackers are fed from it.

A checkpoint holds the rows so far. So a resumed run goes on with the rows of the epochs that it does not repeat, and with no others.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from speechforget.store import write_text

FILE = "curves.csv"
Row = Mapping[str, float]


class Listener(Protocol):
    """Who is told each row of a curve, in order."""

    def point(self, number: int, row: Row) -> None:
        """Row `number`, from 0."""


class Curve:
    """Rows that are kept in a file. folder: where; None on a rank that writes none. listener: who is told."""

    def __init__(self, folder: Path | None, listener: Listener | None = None) -> None:
        self.path = None if folder is None else folder / FILE
        self.listener = listener
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """One more row: name -> number; names can differ from row to row."""
        self.restore([*self.rows, row], told=len(self.rows))

    def restore(self, rows: Iterable[Row], told: int = 0) -> None:
        """The rows that a checkpoint holds, in the place of those here; the listener is told all but the first `told`."""
        self.rows = [dict(row) for row in rows]
        if self.path is None:
            return
        if self.rows:
            write_text(self.path, table(self.rows))
        else:
            self.path.unlink(missing_ok=True)
        if self.listener is not None:
            for number in range(told, len(self.rows)):
                self.listener.point(number, self.rows[number])


def table(rows: Iterable[Row]) -> str:
    """Rows as CSV, a column for each name in the order in which they come first; a number that a row lacks is left empty."""
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
