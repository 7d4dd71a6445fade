"""The sentences below the table of a run about attackers: does a trigger still work, and what do others pay?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.evaluation.damage import harm_sentence
from speechforget.report.columns import number


def backdoor_sentence(result: Mapping[str, Any]) -> str:
    """Say how often the trigger of a backdoor works in each model; empty if no run measured it."""
    parts = []
    for model, metrics in result["comparison"].items():
        shown = [_percent(metrics, f"backdoor_{name}") for name in ("success", "without", "other_sounds")]
        if shown[0]:
            parts.append(f"{model} {shown[0]} ({shown[1]} without it, {shown[2]} with other sounds)")
    if not parts:
        return ""
    opening = "Test recordings of other classes with the trigger that are taken for the attacker's class"
    return f"{opening}: {', '.join(parts)}."


def damage_sentence(result: Mapping[str, Any]) -> str:
    """Say what others paid for each percent of the training data; empty if no run measured it."""
    parts = []
    for model in ("oracle", "unlearned"):
        price = (result["comparison"].get(model, {}).get("damage_test") or {}).get("value")
        parts += [] if price is None else [f"{model} {number(price, 100, 2, sign=True)} points"]
    if not parts:
        return ""
    return f"Accuracy on test that others lost for each percent of the training data asked for: {', '.join(parts)}."


def warning_sentence(result: Mapping[str, Any]) -> str:
    """Repeat the warning that was given before the method was run; empty if there was none."""
    return harm_sentence(result["comparison"].get("original") or {})


def _percent(metrics: Mapping[str, Any], name: str) -> str:
    value = (metrics.get(name) or {}).get("value")
    return "" if value is None else f"{number(value, 100, 1)} %"
