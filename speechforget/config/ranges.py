"""Check single values of a configuration: choices, whole numbers, numbers in a range."""

from __future__ import annotations

import math
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


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(options: Mapping[str, Any], name: str, low: int, prefix: str = "", more: str = "") -> None:
    """Raise UserError unless the value is a whole number of at least `low`. more: also allowed."""
    value = options[name]
    if not is_whole(value) or value < low:
        raise UserError(f"{prefix}{name} must be a whole number of at least {low}{more}, not {value!r}.")


def number(options: Mapping[str, Any], name: str, low: float, high: float, prefix: str = "", more: str = "") -> None:
    """Raise UserError unless the value is a number from `low` to `high`. more: also allowed."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{prefix}{name} must be a number from {low:g} to {high:g}{more}, not {value!r}.")


def check_names(option: str, named: Any) -> None:
    """Raise UserError unless the value is a name or a list of names; YAML reads some words as other things."""
    values = named if isinstance(named, list | tuple) else [named]
    if not values:
        raise UserError(f"{option} is empty: name at least one, or leave {option}=null to draw some.")
    for value in values:
        if not isinstance(value, str | int | float) or isinstance(value, bool) or _is_nan(value):
            raise UserError(
                f"{option} contains {as_yaml(value)}, which is not a name: "
                "quote words such as yes, no, on, off, null, nan."
            )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
