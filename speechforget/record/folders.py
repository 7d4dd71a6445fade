"""Find artefacts below a folder by stage and key, and what their manifests record. Reads names of folders, no data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from speechforget.store.files import read_json
from speechforget.store.folder import KEY_DIGITS
from speechforget.store.graph import FOLDER, OTHERS, RESULT, keys_in
from speechforget.store.manifest import DONE, read_done


class Outputs:
    """The output folders below one folder, which may be one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifests: dict[Path, dict[str, Any]] = {}
        self._inputs: dict[Path, dict[str, Any]] = {}

    @cached_property
    def results(self) -> list[Path]:
        """List the folders of finished results."""
        return [path for path in self.finished if path.parent.name == RESULT and (path / "result.json").exists()]

    @cached_property
    def finished(self) -> list[Path]:
        """List the finished artefacts, by their paths."""
        return sorted(path for path in self._artefacts() if (path / DONE).exists())

    def _artefacts(self) -> Iterator[Path]:
        for here, folders, _ in os.walk(self.folder):
            stage = Path(here)
            folders[:] = [name for name in sorted(folders) if name not in OTHERS and not name.startswith(".")]
            found = [name for name in folders if FOLDER.fullmatch(name)]
            folders[:] = [name for name in folders if name not in found]
            yield from (stage / name for name in found)

    @cached_property
    def roots(self) -> list[Path]:
        """List the output folders."""
        return sorted({path.parents[1] for path in [*self.finished, *self.unfinished]} | {self.folder})

    @cached_property
    def unfinished(self) -> list[Path]:
        """List the folders of artefacts that have no DONE."""
        return sorted(path for path in self._artefacts() if not (path / DONE).exists())

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], Path]:
        return {(path.parent.name, path.name[-KEY_DIGITS:]): path for path in self.finished}

    def find(self, stage: str, key: str) -> Path | None:
        """Return the folder of a finished artefact; None if it is not here."""
        return self._by_key.get((stage, key[:KEY_DIGITS]))

    def find_any(self, key: str) -> Path | None:
        """Return the folder of a finished artefact of any stage."""
        return self._any.get(key[:KEY_DIGITS])

    @cached_property
    def _any(self) -> dict[str, Path]:
        return {digits: path for (_, digits), path in self._by_key.items()}

    def inputs(self, artefact: Path) -> dict[str, Any]:
        """Return what an artefact was made from."""
        if artefact not in self._inputs:
            self._inputs[artefact] = read_json(artefact / "inputs.json").get("inputs") or {}
        return self._inputs[artefact]

    def parents(self, artefact: Path) -> list[Path]:
        """List the artefacts here whose keys are among the inputs of an artefact."""
        found = (self.find_any(key) for key in dict.fromkeys(keys_in(self.inputs(artefact))))
        return [path for path in found if path is not None and path != artefact]

    def of_stage(self, stage: str) -> list[Path]:
        """List the finished artefacts of a stage."""
        return [path for path in self.finished if path.parent.name == stage]

    def files(self, artefact: Path) -> dict[str, dict[str, Any]]:
        """Return size and SHA-256 of the files of a finished artefact, as its DONE records them."""
        return dict(self._done(artefact)["files"])

    def purged(self, artefact: Path) -> frozenset[str]:
        """Return the names of the files that a purge removed from an artefact or rewrote."""
        return frozenset(self._done(artefact).get("purged", {}))

    def key(self, artefact: Path) -> str:
        """Return the key of a finished artefact."""
        return str(self._done(artefact)["key"])

    def _done(self, artefact: Path) -> dict[str, Any]:
        if artefact not in self._manifests:
            self._manifests[artefact] = read_done(artefact) or {"key": "", "files": {}}
        return self._manifests[artefact]

    def relative(self, path: Path) -> str:
        """Return a path relative to the folder of the record."""
        return path.relative_to(self.folder).as_posix()
