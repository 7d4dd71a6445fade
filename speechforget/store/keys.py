"""What names an artefact: the sha256 of its stage and its inputs in one canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def canonical(value: Any) -> Any:
    """The same value in the one form that is hashed: sorted string keys, lists for tuples, 5 for 5.0."""
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def key_of(stage: str, inputs: Mapping[str, Any]) -> str:
    """sha256 of the stage's name and its inputs, 64 hexadecimal digits."""
    text = json.dumps(canonical({"stage": stage, "inputs": inputs}), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, as (dotted place, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{place}.{name}".lstrip("."))
    elif old != new:
        yield place, old, new
