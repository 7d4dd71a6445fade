"""Read and write the values of an attack on a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.evaluation.tables import Value
from speechforget.store import verified, write_json

FILE = "attacks.json"


def write_values(folder: Path, target: str, values: Mapping[str, Value]) -> None:
    """Write the values by name; nan becomes null. target: the class of the attack."""
    entries = {
        name: {
            key: number if not isinstance(number, float) or math.isfinite(number) else None
            for key, number in value._asdict().items()
        }
        for name, value in values.items()
    }
    write_json(folder / FILE, {"attack": target, "values": entries})


def read_values(folder: Path) -> dict[str, Value]:
    """Return the values of a finished attack by name. Raises UserError if they cannot be read."""
    try:
        entries = json.loads(verified(folder, FILE).read_text(encoding="utf-8"))["values"]
        return {name: Value._make(_read(entry[field]) for field in Value._fields) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} has no readable values ({error}): remove it and run again.") from error


def _read(written: Any) -> Any:
    return math.nan if written is None else tuple(written) if isinstance(written, list) else written
