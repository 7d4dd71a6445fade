"""Begin, publish and check the folder of one artefact."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store.files import make_folder, write_json
from speechforget.store.keys import canonical, differences
from speechforget.store.manifest import DONE, damage, damaged, verified, write_done
from speechforget.store.provenance import provenance

# Digits of the key in the name of a folder.
KEY_DIGITS = 12


@dataclass(frozen=True)
class Artefact:
    """Name a finished folder.

    key: 64 hexadecimal digits. built: whether this call built the folder.
    """

    folder: Path
    key: str
    built: bool

    @property
    def name(self) -> str:
        """Return the words in front of the key."""
        return self.folder.name[: -KEY_DIGITS - 1]

    @property
    def cost(self) -> dict[str, Any]:
        """Return the recorded cost of the build; empty if none was recorded."""
        if not (self.folder / "cost.json").exists():
            return {}
        return dict(json.loads(verified(self.folder, "cost.json").read_text(encoding="utf-8")))


def begin(folder: Path, stage: str, inputs: Mapping[str, Any]) -> None:
    """Make the folder and record its inputs; files of an earlier try stay, so that a build can resume."""
    make_folder(folder)
    # A DONE that was cut off counts as unfinished, and must not stay.
    (folder / DONE).unlink(missing_ok=True)
    write_json(folder / "inputs.json", canonical({"stage": stage, "inputs": inputs}))


def publish(
    folder: Path, key: str, started: float, check: Callable[[], None], config: Mapping[str, Any] | None
) -> None:
    """Record where and how a filled folder was built since `started` (monotonic), and mark it as finished.

    check: raises UserError if another process took the folder over. config: recorded for a rebuild, unless None.
    """
    about = {**provenance(), "seconds": round(time.monotonic() - started, 3)}
    write_json(folder / "about.json", about if config is None else {**about, "config": config})
    write_done(folder, key, check)


def check_record(folder: Path, stage: str, key: str, inputs: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise UserError unless a finished folder records these inputs and has all its files. record: of `DONE`."""
    try:
        recorded = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'inputs.json'} cannot be read ({error}): remove {folder} and run again.") from error
    asked = canonical({"stage": stage, "inputs": inputs})
    if recorded != asked:
        lines = "; ".join(f"{path}: recorded {old!r}, asked {new!r}" for path, old, new in differences(recorded, asked))
        raise UserError(f"{folder} was built from other inputs than requested ({lines}): remove it and run again.")
    for name, problem in damage(folder, dict(record)):
        raise damaged(folder, name, problem)
    if record["key"] != key:
        raise damaged(folder, DONE, f"records the key {record['key'][:KEY_DIGITS]}")
