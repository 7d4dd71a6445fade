"""What the charts of one result are drawn from, and the form in which a page holds their data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.tables import MODELS, Tables
from speechforget.record.command import SPEAKER
from speechforget.report.charts.names import Names

DIGITS = 4  # significant digits of every number
Chart = dict[str, Any]  # columns and rows, or the reason why there are none


@dataclass(frozen=True)
class Scene:
    """Hold one comparison under the names that a page may show.

    comparison: of result.json. tables: rows of all models, aligned. names: (n,) str, ids or their salted hashes.
    classes: the K outputs. speakers: (n,) str, "" where unknown, or None for a corpus without speakers.
    """

    comparison: Mapping[str, Mapping[str, Mapping[str, Any]]]
    tables: Tables
    names: NDArray[np.str_]
    classes: Sequence[str]
    speakers: NDArray[np.str_] | None

    @property
    def models(self) -> list[str]:
        """List the models that exist: without an oracle, two."""
        return [model for model in MODELS if model != "oracle" or self.tables.oracles]


def make_scene(comparison: Mapping[str, Any], tables: Tables, ids: NDArray[np.str_], label: str, names: Names) -> Scene:
    """Make the scene of one result. ids: (n,) of the rows of its tables. label: what the model tells apart."""
    classes = [names.shown(name) for name in tables.classes] if label == SPEAKER else list(tables.classes)
    known = tables.speaker is not None and bool((tables.speaker != "").any())
    speaking = names.all(tables.speaker) if known and tables.speaker is not None else None
    return Scene(comparison, tables, names.all(ids), classes, speaking)


def short(number: float) -> float | int | None:
    """Round to `DIGITS` significant digits; null if that is not finite."""
    rounded = float(f"{number:.{DIGITS}g}")
    if not math.isfinite(rounded):
        return None
    return int(rounded) if rounded.is_integer() else rounded


def rows(columns: Sequence[str], values: Iterable[Sequence[Any]], note: str = "") -> Chart:
    """Return a chart's data: the names of the columns, and rows with short numbers. note: what is left out, and why."""
    told = {"note": note} if note else {}
    return {"columns": list(columns), "rows": [[_cell(value) for value in row] for row in values], **told}


def nothing(reason: str) -> Chart:
    """Return a chart without data, and the reason for that."""
    return {"reason": reason}


def _cell(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, int, np.floating, np.integer)):
        return short(float(value))
    return None if value is None else str(value)


def thinned(numbers: NDArray[np.int64], most: int, names: NDArray[np.str_]) -> NDArray[np.int64]:
    """Choose at most `most` of these rows, by a hash of their names, so that the choice is no one's; in order."""
    if len(numbers) <= most:
        return numbers
    drawn = [hashlib.sha256(str(names[number]).encode()).digest() for number in numbers]
    chosen = sorted(range(len(numbers)), key=drawn.__getitem__)[:most]
    return np.sort(numbers[chosen])
