"""Check single values of a configuration: choices, whole numbers, numbers in a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.errors import UserError, nearest


def as_yaml(value: Any) -> str:
    """Write a value as on the command line."""
    return {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)


def choice(options: Mapping[str, Any], name: str, known: tuple[Any, ...], prefix: str = "") -> None:
    """Raise UserError unless the value is one of `known`."""
    if options[name] not in known:
        raise UserError(f"There is no {prefix}{name}={options[name]}: {nearest(str(options[name]), known)}")


def whole(options: Mapping[str, Any], name: str, low: int, prefix: str = "", more: str = "") -> None:
    """Raise UserError unless the value is a whole number of at least `low`. more: also allowed."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{prefix}{name} must be a whole number of at least {low}{more}, not {value!r}.")


def number(options: Mapping[str, Any], name: str, low: float, high: float, prefix: str = "", more: str = "") -> None:
    """Raise UserError unless the value is a number from `low` to `high`. more: also allowed."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{prefix}{name} must be a number from {low:g} to {high:g}{more}, not {value!r}.")
