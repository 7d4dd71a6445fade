"""List the files that the numbers of results rest on, with their hashes and one root over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechforget.record import merkle
from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_path
from speechforget.store.manifest import damage, damaged

# Files of an artefact from which no number is computed.
BESIDE = {"about.json", "curves.csv", "comparison.png", "result.csv"}


class Evidence:
    """Collect the files of artefacts, and the artefacts that are not here."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.folders: dict[str, dict[str, dict[str, Any]]] = {}
        self.absent: dict[tuple[str, str], dict[str, str]] = {}

    def add(self, artefact: Path) -> str:
        """Add an artefact; return its path in the record. Raises UserError if a file is missing or has another size."""
        path = hidden_path(self.outputs.relative(artefact))
        if path not in self.folders:
            files = self.outputs.files(artefact)
            for name, problem in damage(artefact, {"files": files}):
                raise damaged(artefact, name, problem)
            self.folders[path] = {
                name: {"sha256": held["sha256"], "size": held["bytes"]}
                for name, held in files.items()
                if name not in BESIDE and "sha256" in held
            }
        return path

    def add_ancestors(self, artefact: Path) -> None:
        """Add an artefact and everything that it was made from, as far as it is here."""
        waiting = [artefact]
        while waiting:
            found = waiting.pop()
            if hidden_path(self.outputs.relative(found)) not in self.folders or found == artefact:
                self.add(found)
                waiting += self.outputs.parents(found)

    def lacks(self, stage: str, key: str, why: str) -> None:
        """Note an artefact that is not below the folder."""
        self.absent[stage, key] = {"stage": stage, "key": key, "why": why}

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as part of a record."""
        return {
            "folders": self.folders,
            "absent": [self.absent[each] for each in sorted(self.absent)],
            "root": merkle.root(file_hashes(self.folders)),
        }


def file_hashes(folders: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Return path -> SHA-256 of every file of the evidence. folders: of `evidence` in a record."""
    return {f"{folder}/{name}": held["sha256"] for folder, files in folders.items() for name, held in files.items()}


def keys_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield part, name, stage and key of every artefact that a result was computed from. inputs: of the result."""
    for name, key in inputs.get("models", {}).items():
        yield "models", name, name.partition("-")[0], key  # oracle-seed1 is of the stage oracle
    for name, key in inputs.get("scores", {}).items():
        yield "scores", name, "scores", key
    for name, keys in inputs.get("attacks", {}).items():
        yield from (("attacks", name, "attack", key) for key in keys)
    yield from (
        ("audited", stage, stage, inputs[stage]) for stage in ("audit", "power", "untrained") if stage in inputs
    )
