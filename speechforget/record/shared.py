"""Say once what many results share: a value stands under its hash, and results refer to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.record.canonical import digest

DIGITS = 16
WORD = "shared"


class Shared:
    """Collect shared values by the kind of what they hold."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}

    def put(self, kind: str, value: Any) -> dict[str, str]:
        """Keep a value once; return the reference to it."""
        name = digest(value)[:DIGITS]
        self.values.setdefault(kind, {})[name] = value
        return {WORD: f"{kind}/{name}"}


def expand(value: Any, shared: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a value of a record with every reference replaced by what it refers to. shared: of the record."""
    if isinstance(value, dict):
        if value.keys() == {WORD}:
            kind, _, name = value[WORD].partition("/")
            return expand(shared[kind][name], shared)
        return {name: expand(item, shared) for name, item in value.items()}
    return [expand(item, shared) for item in value] if isinstance(value, list) else value


def expanded(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a record with every reference replaced."""
    return [expand(result, record[WORD]) for result in record["results"]]
