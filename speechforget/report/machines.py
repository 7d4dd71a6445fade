"""On what kind of machine seconds were spent, and passes, which compare where seconds do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORWARDS = 3  # that one forward and backward pass of a sample counts as


def machine_of(cost: Mapping[str, Any] | None) -> str:
    """The kind of machine in words; empty where it is not recorded, or where the seconds are of several kinds."""
    machine = (cost or {}).get("machine")
    if not machine:
        return ""
    ranks = "" if machine["ranks"] == 1 else f", {machine['ranks']} processes"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{machine['host']}, {threads}{ranks}"


def passes_of(cost: Mapping[str, Any] | None) -> int | None:
    """Samples that went through a model, a forward and backward pass as `FORWARDS` forward passes; None where that is not recorded."""
    if not cost or "forward" not in cost:
        return None
    return int(cost["forward"]) + FORWARDS * int(cost["forward_backward"])


def compare_in_seconds(result: Mapping[str, Any]) -> bool:
    """Whether unlearned and oracle were made on one kind of machine, with the same threads and processes."""
    cost = result.get("cost") or {}
    return machine_of(cost.get("unlearned")) == machine_of(cost.get("oracle")) != ""


def machine_sentence(result: Mapping[str, Any]) -> str:
    """Why there is no ratio of seconds, and the passes instead; empty where there is one."""
    if compare_in_seconds(result):
        return ""
    cost = result.get("cost") or {}
    where = [machine_of(cost.get(name)) for name in ("oracle", "unlearned")]
    why = (
        f"the oracle's are of {where[0]}, the unlearned model's of {where[1]}"
        if all(where)
        else "it is not recorded, or mixed, where they were spent"
    )
    counts = [passes_of(cost.get(name)) for name in ("oracle", "unlearned")]
    told = " and ".join(
        f"{name} {count:,}" for name, count in zip(("oracle", "unlearned"), counts, strict=True) if count is not None
    )
    return f"Seconds do not compare: {why}.{f' Passes do (forward and backward count {FORWARDS}): {told}.' if told else ''}"
