"""The cost of models: the machine that seconds were measured on, and passes, which compare across machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORWARDS = 3  # forward passes that one forward and backward pass of a sample counts as


def machine_of(cost: Mapping[str, Any] | None) -> str:
    """Describe the kind of machine; empty if it is not recorded, or if the run used several kinds."""
    machine = (cost or {}).get("machine")
    if not machine:
        return ""
    ranks = "" if machine["ranks"] == 1 else f", {machine['ranks']} processes"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    together = f", {machine['together']} models at once" if machine.get("together", 1) > 1 else ""
    return f"{machine['host']}, {threads}{ranks}{together}"


def passes_of(cost: Mapping[str, Any] | None) -> int | None:
    """Count passes of samples, a forward and backward pass as `FORWARDS` forward passes; None if not recorded."""
    if not cost or "forward" not in cost:
        return None
    return int(cost["forward"]) + FORWARDS * int(cost["forward_backward"])


def compare_in_seconds(result: Mapping[str, Any]) -> bool:
    """Say whether unlearned model and oracle were made on one kind of machine, with equal threads and processes."""
    cost = result.get("cost") or {}
    return machine_of(cost.get("unlearned")) == machine_of(cost.get("oracle")) != ""


def machine_sentence(result: Mapping[str, Any]) -> str:
    """Explain why seconds are not comparable, and give the passes instead; empty if seconds are comparable."""
    if compare_in_seconds(result):
        return ""
    cost = result.get("cost") or {}
    where = [machine_of(cost.get(name)) for name in ("oracle", "unlearned")]
    why = (
        f"the oracle's were measured on {where[0]}, the unlearned model's on {where[1]}"
        if all(where)
        else "the machine is not recorded, or it changed during a run"
    )
    counts = [passes_of(cost.get(name)) for name in ("oracle", "unlearned")]
    told = " and ".join(
        f"{name} {count:,}" for name, count in zip(("oracle", "unlearned"), counts, strict=True) if count is not None
    )
    passes = f" Passes are comparable (a forward and backward pass counts {FORWARDS}): {told}." if told else ""
    return f"Seconds are not comparable: {why}.{passes}"
