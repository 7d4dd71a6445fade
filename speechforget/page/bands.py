"""The small drawings beside a verdict: one number on the band of oracles, with the original beside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechforget.evaluation.evidence import judge

MARGIN = 0.06  # of the width, free at both ends of a drawing
MOST = 3  # drawings of one answer


@dataclass(frozen=True)
class Band:
    """Hold one drawing. Positions are in percent of its width, None for what is unknown.

    text: the same in words. inside: whether the value is within the band.
    """

    name: str
    text: str
    value: float
    low: float | None
    high: float | None
    original: float | None
    inside: bool


def bands(entry: Mapping[str, Any], names: Sequence[str]) -> list[Band]:
    """Draw the numbers that an answer rests on, at most `MOST`. entry: comparison and audit of a result."""
    return list(_bands(entry, names))[:MOST]


def _bands(entry: Mapping[str, Any], names: Sequence[str]) -> Iterator[Band]:
    figures = {(figure["name"], figure["model"]): figure for figure in (entry.get("audit") or {"figures": []})["figures"]}
    for name in names:
        if (figure := figures.get((name, "unlearned"))) and figure["value"] is not None:
            original = (figures.get((name, "original")) or {}).get("value")
            yield _band(name, figure["value"], figure["null_low"], figure["null_high"], original)
    for each in judge(entry["comparison"], [name for name in names if (name, "unlearned") not in figures]):
        low, high = (None, None) if math.isnan(each.low) else (each.low, each.high)
        yield _band(each.name, each.value, low, high, each.original)


def _band(name: str, value: float, low: float | None, high: float | None, original: float | None) -> Band:
    known = [number for number in (value, low, high, original) if number is not None]
    start, end = min(known), max(known)
    width = (end - start) or 1.0

    def place(number: float | None) -> float | None:
        return None if number is None else round(100 * (MARGIN + (1 - 2 * MARGIN) * (number - start) / width), 2)

    told = f"{value:.3g}, oracles {low:.3g} to {high:.3g}" if low is not None and high is not None else f"{value:.3g}, no band"
    text = told if original is None else f"{told}, original {original:.3g}"
    inside = low is not None and high is not None and low <= value <= high
    drawn = place(value)
    assert drawn is not None
    return Band(name, text, drawn, place(low), place(high), place(original), inside)
