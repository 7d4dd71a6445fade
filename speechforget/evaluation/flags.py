"""What is wrong with an unlearned model at first sight: it does nothing, or it is destroyed. Judged by accuracies on forget and retain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING, DESTROYED = "does nothing", "destroys the model"
STILL, MOVED = 0.01, 0.05  # a method does nothing where it stays this near to an original that is this far from the aim
LOST = 0.15  # below the oracle on retain


def flags(comparison: Mapping[str, Mapping[str, Any]], forgotten: bool = False) -> dict[str, str]:
    """Flag -> a sentence with its numbers; empty where neither holds or accuracies are missing. comparison: what `compare` returned.

    The aim on forget and the measure on retain are the oracle's. Without an oracle the measure is the original's. The aim is then 0 where the
    request names whole classes (`forgotten`). For samples it is not known, and "does nothing" means that no number but seconds differs.
    """
    original, oracle, unlearned = (comparison.get(model, {}) for model in ("original", "oracle", "unlearned"))
    start, forget, retain = (
        _accuracy(original, "forget"),
        _accuracy(unlearned, "forget"),
        _accuracy(unlearned, "retain"),
    )
    aim, kept, of = _accuracy(oracle, "forget"), _accuracy(oracle, "retain"), "the oracle's"
    if start is None or forget is None or retain is None:
        return {}
    if kept is None:
        aim, kept, of = 0.0 if forgotten else None, _accuracy(original, "retain"), "the original's"
    if kept is not None and _over(kept - retain, LOST):
        return {
            DESTROYED: f"The method destroys the model: on retain it is right in {_percent(retain)}, {of} value is {_percent(kept)}."
        }
    if aim is None:
        alike = all(
            entry["value"] == original[name]["value"]
            for name, entry in unlearned.items()
            if name != "seconds" and name in original
        )
        return {NOTHING: "The method does nothing: no number differs from the original's."} if alike else {}
    if not _over(abs(forget - start), STILL) and _over(abs(aim - start), MOVED):
        values = f"{_percent(forget)} right, the original {_percent(start)}, and the aim is {_percent(aim)}"
        return {NOTHING: f"The method does nothing: on forget the unlearned model is {values}."}
    return {}


def _over(difference: float, limit: float) -> bool:
    """Whether two shares differ by more than so much; 0.99 and 1.0 differ by 0.01, whatever rounding makes of it."""
    return round(difference, 9) > limit


def _accuracy(metrics: Mapping[str, Any], subset: str) -> float | None:
    value: float | None = (metrics.get(f"accuracy_{subset}") or {}).get("value")
    return value


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
