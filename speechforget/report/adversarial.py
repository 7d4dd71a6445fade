"""The sentences below the table of a run about attackers: whether a trigger still works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def _percent(metrics: Mapping[str, Any], name: str) -> str:
    value = (metrics.get(name) or {}).get("value")
    return "" if value is None else f"{number(value, 100, 1)} %"
