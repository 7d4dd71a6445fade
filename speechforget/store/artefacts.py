"""Content-addressed folders: what made an artefact is its name, and it is made once.

`Store.produce` gives the folder of an artefact, building it first where it is missing. A folder without `DONE` was left by a process that died;
the next one takes it over.
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
from speechforget.store.dry_run import only_looking
from speechforget.store.files import explained, make_folder, write_json
from speechforget.store.keys import canonical, differences, key_of
from speechforget.store.locks import locked
from speechforget.store.manifest import DONE, damage, damaged, read_done, verified, write_cache_done, write_done
from speechforget.store.names import words_for
from speechforget.store.provenance import provenance

UNWRITABLE_CACHE = "The cache {folder.parent} cannot be written ({reason}): set cache=FOLDER to another place."
KEY_DIGITS = 12  # of a key in a folder's name


@dataclass(frozen=True)
class Artefact:
    """A finished folder. key: 64 hexadecimal digits. built: whether this call made it."""

    folder: Path
    key: str
    built: bool

    @property
    def name(self) -> str:
        """The words in front of the key."""
        return self.folder.name[: -KEY_DIGITS - 1]

    @property
    def cost(self) -> dict[str, Any]:
        """What making it took, as recorded then (empty where nothing was)."""
        return (
            json.loads(verified(self.folder, "cost.json").read_text(encoding="utf-8"))
            if (self.folder / "cost.json").exists()
            else {}
        )


class Producer(Protocol):
    """What a pipeline needs of a store."""

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        ...


@dataclass(frozen=True)
class Store:
    """The artefacts below `root`. lock: how processes keep out of one another's way, flock or lease (docs/identity.md).

    config: of the run that asks, noted beside what it makes, so that it can be made again; in no key.
    """

    root: Path
    lock: str = "flock"
    config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Store:
        """The store that a run's config names by `output` and `lock`."""
        return cls(Path(config["output"]), config["lock"], config)

    def folder(self, stage: str, name: str, key: str) -> Path:
        """Where an artefact lies, made or not."""
        return self.root / stage / f"{words_for(name)}-{key[:KEY_DIGITS]}"

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """The artefact of `stage` made of `inputs`; `build(folder, key)` fills its folder where it is missing or unfinished.

        name: readable words in front of the key's first digits, made fit for any file system; they identify nothing.
        Raises UserError when a finished folder records other inputs than those asked for, when a file of it is missing or has another size, when
        the folder cannot be written, and when another process took over meanwhile (lease).
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
    """Fills a cache folder, empty when `build` is called, unless that is done; safe for several processes at once.

    Raises UserError where the folder cannot be written. A cache that lost a file is made again.
    """
    with explained(folder, UNWRITABLE_CACHE):
        if _is_cached(folder):
            return
        only_looking(folder)
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
    (folder / DONE).unlink(missing_ok=True)  # one that was cut off
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
        raise UserError(f"{folder} does not say what made it ({error}): remove it and run again.") from error
    asked = canonical({"stage": stage, "inputs": inputs})
    if recorded != asked:
        lines = "; ".join(
            f"{place}: recorded {old!r}, asked {new!r}" for place, old, new in differences(recorded, asked)
        )
        raise UserError(f"{folder} was made of something else than is asked for ({lines}): remove it and run again.")
    for name, problem in damage(folder, dict(record)):
        raise damaged(folder, name, problem)
    if record["key"] != key:
        raise damaged(folder, DONE, f"records the key {record['key'][:KEY_DIGITS]}")
