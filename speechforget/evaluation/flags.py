"""Flags for an unlearned model that failed: the method did nothing, or destroyed the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNCHANGED, DESTROYED = "does nothing", "destroys the model"
# "Does nothing": accuracy on forget within STILL of the original, while the original is more than MOVED from the aim.
STILL, MOVED = 0.01, 0.05
# "Destroys the model": accuracy on retain more than LOST below the oracle.
LOST = 0.15


def flags(comparison: Mapping[str, Mapping[str, Any]], forgotten: bool = False) -> dict[str, str]:
    """Map each raised flag to a sentence with its numbers; empty if none is raised or an accuracy is missing.

    comparison: from `compare`. forgotten: whether the request removes whole classes. The accuracy of transcripts is the
    share of letters without an error.

    The aim on forget and the reference on retain are the oracle's accuracies. Without an oracle the reference is the
    original's, and the aim is 0 for a class request. For a sample request the aim is then not known: "does nothing"
    means that no number except seconds differs from the original's.
    """
    original, oracle, unlearned = (comparison.get(model, {}) for model in ("original", "oracle", "unlearned"))
    start = _accuracy(original, "forget")
    forget, retain = _accuracy(unlearned, "forget"), _accuracy(unlearned, "retain")
    aim, kept, of = _accuracy(oracle, "forget"), _accuracy(oracle, "retain"), "the oracle's"
    if start is None or forget is None or retain is None:
        return {}
    if kept is None:
        aim, kept, of = 0.0 if forgotten else None, _accuracy(original, "retain"), "the original's"
    if kept is not None and _over(kept - retain, LOST):
        values = f"its accuracy on retain is {_percent(retain)}, {of} is {_percent(kept)}"
        return {DESTROYED: f"The method destroys the model: {values}."}
    if aim is None:
        alike = all(
            entry["value"] == original[name]["value"]
            for name, entry in unlearned.items()
            if name != "seconds" and name in original
        )
        return {UNCHANGED: "The method does nothing: no number differs from the original's."} if alike else {}
    if not _over(abs(forget - start), STILL) and _over(abs(aim - start), MOVED):
        values = f"is {_percent(forget)}, the original's {_percent(start)}, and the aim is {_percent(aim)}"
        return {UNCHANGED: f"The method does nothing: the unlearned model's accuracy on forget {values}."}
    return {}


def _over(difference: float, limit: float) -> bool:
    """Say whether a difference of shares exceeds a limit, ignoring float rounding: 1.0 - 0.99 is not above 0.01."""
    return round(difference, 9) > limit


def _accuracy(metrics: Mapping[str, Any], subset: str) -> float | None:
    wrong = (metrics.get(f"character_error_rate_{subset}") or {}).get("value")
    value: float | None = (metrics.get(f"accuracy_{subset}") or {}).get("value")
    return value if wrong is None else 1 - wrong


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
