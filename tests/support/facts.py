"""Declare what the tests check for each method: the direction of forget's loss, and the cost.

A family of methods has a file `facts_*.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from support.tiny import CLASS, EPOCHS

# One method for each kind of plan: no pass, forget and retain passes, mix, both, turns, and passes of noise alone.
# The fast suite takes these through the whole pipeline and through two processes; all others go at night.
ONE_OF_EACH = ("influence", "scrub", "salun", "munba", "sfron", "unsir")
F, R, E = len(CLASS.forget), len(CLASS.retain), EPOCHS
V = 7  # validation utterances of the tiny problem


@dataclass(frozen=True)
class Facts:
    """The facts of one method.

    cost: sample passes, (forward, forward with backward), for the tiny problem's class request, in F, R, E and V.
    forget: what happens in a class request. `rises`: the loss on forget rises by half; `moves`: weights change;
        `same`: no weight changes; `any`: nothing is promised.
    faster: options for the tiny problem, which has few steps.
    variants: pairs (options that differ from the yaml, facts that differ for them).
    """

    cost: tuple[int, int]
    forget: Literal["rises", "moves", "same", "any"] = "rises"
    faster: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 0.02})
    variants: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()


def all_facts() -> dict[str, Facts]:
    """Collect the facts of every method from the files `facts_*.py`."""
    found: dict[str, Facts] = {}
    for path in sorted(Path(__file__).parent.glob("facts_*.py")):
        found |= importlib.import_module(f"support.{path.stem}").FACTS
    return found
