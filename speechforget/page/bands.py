"""The small drawings beside a verdict: one number on the band of oracles, with the original beside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARGIN = 0.06  # of the width, free at both ends of a drawing
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
# How `evaluation.evidence` and `evaluation.audit_answers` write a number beside the band of oracles.
LISTED = re.compile(
    rf"(?P<name>[\w.]+) (?P<value>{NUMBER}), oracles (?P<low>{NUMBER}) to (?P<high>{NUMBER})"
    rf"(?:, original (?P<original>{NUMBER}))?"
)
BRACKET = re.compile(r" \([^()]*, oracles [^()]*\)")
HINT = re.compile(r"A hint(?:, without a band)?: [^:]*, oracles [^:]*\.(?=$| [A-Z])")


@dataclass(frozen=True)
class Band:
    """Hold one drawing. Positions are in percent of its width; the original's may be unknown.

    text: the same in words. inside: whether the value is within the band.
    """

    name: str
    text: str
    value: float
    low: float
    high: float
    original: float | None
    inside: bool


def bands(entry: Mapping[str, Any], sentence: str) -> list[Band]:
    """Draw the numbers that a sentence of a verdict names, as it gives them, so that the two cannot differ.

    entry: comparison and audit of a result, for the original's number where the sentence leaves it out.
    """
    figures = (entry.get("audit") or {"figures": []})["figures"]
    originals = {figure["name"]: figure["value"] for figure in figures if figure["model"] == "original"}
    found = []
    for listed in LISTED.finditer(sentence):
        value, low, high = (float(listed[name]) for name in ("value", "low", "high"))
        told = originals.get(listed["name"]) if listed["original"] is None else float(listed["original"])
        found.append(_band(listed["name"], value, low, high, told))
    return found


def without_numbers(sentence: str) -> str:
    """Return a sentence without the numbers that are drawn beside it."""
    return HINT.sub("The numbers beside are a hint.", BRACKET.sub("", sentence))


def _band(name: str, value: float, low: float, high: float, original: float | None) -> Band:
    known = [number for number in (value, low, high, original) if number is not None]
    start, width = min(known), (max(known) - min(known)) or 1.0

    def place(number: float) -> float:
        return round(100 * (MARGIN + (1 - 2 * MARGIN) * (number - start) / width), 2)

    told = f"{value:.3g}, oracles {low:.3g} to {high:.3g}"
    text = told if original is None else f"{told}, original {original:.3g}"
    drawn = None if original is None else place(original)
    return Band(name, text, place(value), place(low), place(high), drawn, low <= value <= high)
