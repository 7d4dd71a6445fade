"""Read the ledger of a purge: what is gone, what is kept and why, and what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechforget.store.files import read_json

LEDGER = "purge.json"


def read_ledger(folder: Path) -> dict[str, Any] | None:
    """Read the ledger of a result; None if its request was not purged."""
    return read_json(folder / LEDGER) or None
