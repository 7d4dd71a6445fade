"""Return artefacts by the hash of their inputs, and build the missing ones.

`Store.produce` returns the folder of an artefact and builds it first if it is missing. A folder without `DONE` was left
by a process that died; the next process takes it over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store.dry_run import refuse_in_dry_run
from speechforget.store.files import explained, make_folder
from speechforget.store.folder import KEY_DIGITS, Artefact, begin, check_record, publish
from speechforget.store.keys import key_of
from speechforget.store.locks import locked
from speechforget.store.manifest import damage, read_done, write_cache_done
from speechforget.store.names import words_for
from speechforget.store.several import BuildMany, Missing, Producer, Several, Wanted

UNWRITABLE_CACHE = "The cache {folder.parent} cannot be written ({reason}): choose another folder with cache=FOLDER."


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
            check_record(folder, stage, key, inputs, record)
        return Artefact(folder, key, built=False)

    def produce_many(self, wanted: Sequence[Wanted], build: BuildMany) -> list[Artefact]:
        """Return the artefacts in the order of `wanted`; build missing ones together.

        `build(missing, ended, later)` gets all folders whose locks are free, and calls `ended` for each one, which
        publishes it at once, or `later`, which releases it: then each process takes one at a time. Folders that other
        processes build are waited for afterwards, while no lock is held; what those processes leave unfinished is built
        here. Raises the first error after everything else is built, else as `produce` does.
        """
        keys = [key_of(one.stage, one.inputs) for one in wanted]
        folders = [self.folder(one.stage, one.name, key) for one, key in zip(wanted, keys, strict=True)]
        missing = [Missing(number, *both) for number, both in enumerate(zip(folders, keys, strict=True))]
        return Several(wanted, missing, self.lock, self.config).made(build)


def recording(store: Producer, config: Mapping[str, Any]) -> Producer:
    """Return the same store, which records another config beside what it builds; any other producer as it is."""
    return replace(store, config=config) if isinstance(store, Store) else store


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
    begin(folder, stage, inputs)
    started = time.monotonic()
    build(folder, key)
    publish(folder, key, started, check, config)
