"""The learning curve of an artefact: `curves.csv` in its folder, one row per epoch or pass, also sent to trackers.

A checkpoint holds the rows so far, so a resumed run continues with exactly the rows of the epochs before it.
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
    """Receive each row of a curve, in order."""

    def point(self, number: int, row: Row) -> None:
        """Receive row `number`, from 0."""


class Curve:
    """Keep rows in a file. folder: None on a rank that writes no file. listener: receives the rows."""

    def __init__(self, folder: Path | None, listener: Listener | None = None) -> None:
        self.path = None if folder is None else folder / FILE
        self.listener = listener
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Add a row: name -> number. Names may differ between rows."""
        self.restore([*self.rows, row], told=len(self.rows))

    def restore(self, rows: Iterable[Row], told: int = 0) -> None:
        """Replace all rows by those of a checkpoint; the listener receives all except the first `told`."""
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


def read_curve(folder: Path) -> list[Row]:
    """Read the rows of a finished artefact; empty without a curve."""
    path = folder / FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: int(value) if value.isdigit() else float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def table(rows: Iterable[Row]) -> str:
    """Write rows as CSV, with a column for each name in order of first appearance; a missing number is empty.

    pandas would write the integers of a column with missing numbers as floats, so the standard library writes it.
    """
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
