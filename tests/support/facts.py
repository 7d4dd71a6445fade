"""What is said of each method, and tested for each: which way forget's loss goes, and what it costs. Families of methods have a file each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from support.tiny import CLASS, EPOCHS

F, R, E = len(CLASS.forget), len(CLASS.retain), EPOCHS
V = 7  # validation utterances of the tiny problem


@dataclass(frozen=True)
class Facts:
    """cost: (forward, forward with backward) in utterances on the tiny problem's class request, in F, R, E and V.

    forget: whether the loss on forget `rises` by half in a class request (`moves`: weights do, wherever that loss goes; `same`: nothing does;
        `any`: nothing is promised).
    changes: what the yaml does not say and a user can; the same facts hold, but for `cost` and `forget` where `variants` says others.
    faster: numbers for the tiny problem, which has few steps.
    """

    cost: tuple[int, int]
    forget: Literal["rises", "moves", "same", "any"] = "rises"
    faster: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 0.02})
    variants: Sequence[
        tuple[Mapping[str, Any], Mapping[str, Any]]
    ] = ()  # (changes of the yaml, changes of these facts)


def all_facts() -> dict[str, Facts]:
    """Of every method, from the files `facts_*.py` beside this one."""
    found: dict[str, Facts] = {}
    for path in sorted(Path(__file__).parent.glob("facts_*.py")):
        found |= importlib.import_module(f"support.{path.stem}").FACTS
    return found
