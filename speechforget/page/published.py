"""The numbers of Tables 1 and 2 of "Speech Unlearning" (Cheng & Amiri, Interspeech 2025), beside rows of that setting.

The paper gives means over seven encoders and requests of 1 to 10 %, so a row of one encoder, or of one request, need
not equal them.
"""

from __future__ import annotations

import csv
import functools
from importlib.resources import files

FILE = "published.csv"
# Metric -> column of the file, and what turns the file's number into the metric's unit.
COLUMNS = {
    "accuracy_test": ("test", 0.01),
    "accuracy_forget": ("forget", 0.01),
    "accuracy_retain": ("retain", 0.01),
    "membership_nonmember_share": ("nonmember", 0.01),
    "seconds": ("hours", 3600.0),
}
NOTE = (
    "Rows in italics: the paper's Table {table} (Cheng & Amiri, Interspeech 2025), means over seven encoders and "
    "requests of 1 to 10 %; it has no oracle, and names no spread."
)


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    return tuple(csv.DictReader(files(__package__).joinpath("assets", FILE).read_text(encoding="utf-8").splitlines()))


def published(dataset: str, label: str, kind: str, method: str) -> tuple[str, dict[str, float]] | None:
    """Return the number of the table and the metrics of a method; None if the paper has no such setting."""
    for row in _rows():
        if (
            dataset in row["datasets"].split()
            and (row["label"], row["method"]) == (label, method)
            and row["kind"] in ("", kind)
        ):
            found = {metric: float(row[name]) * factor for metric, (name, factor) in COLUMNS.items() if row[name]}
            return row["table"], found
    return None
