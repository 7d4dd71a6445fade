"""Describe a request without naming anybody: kind, counts, and salted hashes of the ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.record.command import SPEAKER
from speechforget.record.hidden import hidden_request
from speechforget.record.salt import Salt
from speechforget.store.files import read_json, write_json

LISTS = ("forget", "withdrawn")  # files with the ids that a request names
HASHES = "hashes.json"  # what a purge keeps of them
COUNTS = ("forget", "retain", "nonmembers", "withdrawn")


def describe_request(folder: Path, result: Mapping[str, Any], salt: Salt) -> dict[str, Any]:
    """Return the request of a result: counts, classes, and the hashes of what it names."""
    request = result["request"]
    classes = list(request.get("forgotten") or [])
    return {
        "kind": result["task"]["kind"],
        "by": result["task"].get("by"),
        "name": hidden_request(str(request["name"]), result["label"], salt),
        "counts": {name: int(request.get(name, 0)) for name in COUNTS},
        "classes": salt.all(classes) if result["label"] == SPEAKER else classes,
        "matched": request.get("matched", ""),
        **request_hashes(folder, salt),
    }


def request_hashes(folder: Path, salt: Salt) -> dict[str, Any]:
    """Return `hashes` of the forgotten and `withdrawn_hashes` of the withdrawn utterances, and the name of the salt.

    A purge keeps them when it removes the lists. `hashes` is null if there is neither.
    """
    if kept := read_json(folder / HASHES):
        return kept
    found = {name: read_list(folder, name) for name in LISTS}
    hashes = {name: None if ids is None else salt.all(ids) for name, ids in found.items()}
    return {"hashes": hashes["forget"], "withdrawn_hashes": hashes["withdrawn"] or [], "salt": salt.name}


def keep_hashes(folder: Path, salt: Salt) -> None:
    """Write the hashes of a request beside its lists, before a purge removes these. Safe to repeat."""
    write_json(folder / HASHES, request_hashes(folder, salt))


def read_list(folder: Path, name: str) -> list[str] | None:
    """Read the ids of a list of a result; None if it has none."""
    path = folder / f"{name}.txt"
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else None
