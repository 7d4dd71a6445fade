"""Write a record as a file of its own; a page holds the same bytes in the element `record`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.record.canonical import canonical_bytes
from speechforget.store.files import explained

FILE = "record.json"
SIGNATURE = ".sig"  # ending of the file beside it
DENIED = "Cannot write to {folder} ({reason}): name a folder that you may write to."


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write record.json atomically and remove the signature of an earlier one; return the path.

    Raises UserError if the folder cannot be written.
    """
    path = folder / FILE
    with explained(path, DENIED):
        temporary = path.with_name(f".{FILE}")
        temporary.write_bytes(canonical_bytes(record))
        temporary.replace(path)
        path.with_suffix(SIGNATURE).unlink(missing_ok=True)
    return path
