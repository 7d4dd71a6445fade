"""Return artefacts by the hash of their inputs, and build the missing ones.

`Store.produce` returns the folder of an artefact and builds it first if it is missing. A folder without `DONE` was left
by a process that died; the next process takes it over.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from speechforget.errors import UserError
from speechforget.store.dry_run import refuse_in_dry_run
from speechforget.store.files import explained, make_folder, write_json
from speechforget.store.keys import canonical, differences, key_of
from speechforget.store.locks import locked
from speechforget.store.manifest import DONE, damage, damaged, read_done, verified, write_cache_done, write_done
from speechforget.store.names import words_for
from speechforget.store.provenance import provenance

UNWRITABLE_CACHE = "The cache {folder.parent} cannot be written ({reason}): choose another folder with cache=FOLDER."
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


class Producer(Protocol):
    """Declare the one method of a store that a pipeline calls."""

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        ...


@dataclass(frozen=True)
class Store:
    """Hold the artefacts below `root`.

    lock: flock or lease, how processes exclude each other (docs/identity.md, "Locks").
    config: the config of this run. It is recorded beside new artefacts so they can be rebuilt; no key contains it.
    """

    root: Path
    lock: str = "flock"
    config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Store:
        """Create the store that a config names by `output` and `lock`."""
        return cls(Path(config["output"]), config["lock"], config)

    def folder(self, stage: str, name: str, key: str) -> Path:
        """Return the folder of an artefact, whether it exists or not."""
        return self.root / stage / f"{words_for(name)}-{key[:KEY_DIGITS]}"

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Return the artefact of `stage` for `inputs`; call `build(folder, key)` if it is missing or unfinished.

        name: readable words in front of the key's first digits, cleaned for every file system; no part of the identity.
        Raises UserError if a finished folder records other inputs, if one of its files is missing or has another size,
        if the folder cannot be written, or if another process took over the lease during the build.
        """
        key = key_of(stage, inputs)
        folder = self.folder(stage, name, key)
        with explained(folder):
            record = read_done(folder)
            if record is None:
                make_folder(folder.parent)
                with locked(folder, self.lock) as claim:
                    record = read_done(folder)
                    if record is None:
                        _build(folder, stage, key, inputs, build, claim.check, self.config)
                        return Artefact(folder, key, built=True)
            _check(folder, stage, key, inputs, record)
        return Artefact(folder, key, built=False)


def once(folder: Path, lock: str, build: Callable[[], None]) -> None:
    """Fill a cache folder once; safe for several processes at the same time.

    `build` is called with the folder empty. A cache that lost a file is built again.
    Raises UserError if the folder cannot be written.
    """
    with explained(folder, UNWRITABLE_CACHE):
        if _is_cached(folder):
            return
        refuse_in_dry_run(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(UNWRITABLE_CACHE.format(folder=folder, reason=error.strerror)) from error
        with locked(folder, lock, denied=UNWRITABLE_CACHE) as claim:
            if not _is_cached(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build()
                write_cache_done(folder, claim.check)


def _is_cached(folder: Path) -> bool:
    record = read_done(folder)
    return (
        record is not None
        and all("sha256" in held for held in record["files"].values())
        and not any(damage(folder, record))
    )


def _build(
    folder: Path,
    stage: str,
    key: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path, str], None],
    check: Callable[[], None],
    config: Mapping[str, Any] | None,
) -> None:
    make_folder(folder)
    # A DONE that was cut off counts as unfinished, and must not stay.
    (folder / DONE).unlink(missing_ok=True)
    write_json(folder / "inputs.json", canonical({"stage": stage, "inputs": inputs}))
    started = time.monotonic()
    build(folder, key)
    about = {**provenance(), "seconds": round(time.monotonic() - started, 3)}
    write_json(folder / "about.json", about if config is None else {**about, "config": config})
    write_done(folder, key, check)


def _check(folder: Path, stage: str, key: str, inputs: Mapping[str, Any], record: Mapping[str, Any]) -> None:
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
