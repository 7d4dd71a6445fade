"""Describe a request without naming anybody: kind, counts, and salted hashes of the ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.data.requests.past import EARLIER
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
        **_earlier(folder, result, salt),
    }


def _earlier(folder: Path, result: Mapping[str, Any], salt: Salt) -> dict[str, Any]:
    """Return the requests before, in their order, and whether the method used them again; nothing for a first one."""
    told = result["request"].get("earlier") or []
    if not told:
        return {}
    hashes, label = earlier_hashes(folder, salt), result["label"]
    return {
        "earlier": [
            {
                "kind": each["kind"],
                "name": hidden_request(each["name"], label, salt),
                "counts": {name: int(each[name]) for name in ("forget", "withdrawn")},
                "classes": salt.all(each["classes"]) if label == SPEAKER else list(each["classes"]),
                "hashes": None if hashes is None else hashes[place],
            }
            for place, each in enumerate(told)
        ],
        "keep_forget": bool(result["request"]["keep_forget"]),
    }


def earlier_hashes(folder: Path, salt: Salt) -> list[list[str]] | None:
    """Return the hashes of what each earlier request named; None if the list is gone and no purge kept them."""
    if kept := read_json(folder / HASHES).get("earlier"):
        return [list(each) for each in kept]
    listed = read_json(folder / EARLIER).get("requests")
    return None if listed is None else [salt.all([*each["forget"], *each["withdrawn"]]) for each in listed]


def request_hashes(folder: Path, salt: Salt) -> dict[str, Any]:
    """Return `hashes` of the forgotten and `withdrawn_hashes` of the withdrawn utterances, and the name of the salt.

    A purge keeps them when it removes the lists. `hashes` is null if there is neither.
    """
    if kept := read_json(folder / HASHES):
        return {name: value for name, value in kept.items() if name != "earlier"}
    found = {name: read_list(folder, name) for name in LISTS}
    hashes = {name: None if ids is None else salt.all(ids) for name, ids in found.items()}
    return {"hashes": hashes["forget"], "withdrawn_hashes": hashes["withdrawn"] or [], "salt": salt.name}


def keep_hashes(folder: Path, salt: Salt) -> None:
    """Write the hashes of a request beside its lists, before a purge removes these. Safe to repeat."""
    earlier = earlier_hashes(folder, salt)
    write_json(
        folder / HASHES, {**request_hashes(folder, salt), **({"earlier": earlier} if earlier is not None else {})}
    )


def read_list(folder: Path, name: str) -> list[str] | None:
    """Read the ids of a list of a result; None if it has none."""
    path = folder / f"{name}.txt"
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else None
