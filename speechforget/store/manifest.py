"""`DONE`: the last file of a folder, with the size and the sha256 of every other one.

It is written after all of them have reached the disk, so a folder that has it is whole; without it, or with half of it, the folder is unfinished.
Looking at sizes is cheap and done at every use; hashes are looked at by `verified` and by `python -m speechforget.store verify`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store.files import sync

DONE = "DONE"
TRACKERS = {"wandb", "csv", "tensorboard"}  # folders that trackers may append to later
FEW = 64  # files of a cache whose sizes are recorded


def files_of(folder: Path) -> Iterator[Path]:
    """Every file that belongs to an artefact, in a fixed order."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here == folder:
            folders[:] = [name for name in folders if name not in TRACKERS]
        folders.sort()
        yield from (here / name for name in sorted(names) if here != folder or name != DONE)


def write_done(folder: Path, key: str, check: Callable[[], None]) -> None:
    """Records every file of `folder` and finishes it, unless `check` raises at the last moment."""
    files: dict[str, dict[str, Any]] = {}
    for path in _without_leftovers(folder):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    for place in {folder, *(path.parent for path in (folder / name for name in files))}:
        sync(place)
    _write(folder, {"key": key, "files": files}, check)


def write_cache_done(folder: Path, check: Callable[[], None]) -> None:
    """Finishes a cache. Of more than a few files nothing is recorded: they can be made again, and are looked at where they are read."""
    paths = list(files_of(folder))
    few = len(paths) <= FEW
    if few:
        for path in paths:
            sync(path)
    else:
        os.sync()
    files = (
        {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
        if few
        else {}
    )
    _write(folder, {"key": folder.name, "files": files}, check)


def _write(folder: Path, record: dict[str, Any], check: Callable[[], None]) -> None:
    temporary = folder / f".{DONE}.{os.getpid()}"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sync(temporary)
    check()
    temporary.replace(folder / DONE)
    sync(folder)


def _without_leftovers(folder: Path) -> Iterator[Path]:
    """The files, without those that a process was killed over before it could rename them (see `files.write_text`)."""
    for path in files_of(folder):
        stem, _, number = path.name.rpartition(".")
        if stem.startswith(".") and number.isdigit():
            path.unlink()
        else:
            yield path


def sha256(path: Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_done(folder: Path) -> dict[str, Any] | None:
    """What DONE records; None where it is missing or was cut off, which is an unfinished folder."""
    try:
        record = json.loads((folder / DONE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("key"), str) and isinstance(record.get("files"), dict)
    return record if whole and all(_is_whole(held) for held in record["files"].values()) else None


def _is_whole(held: Any) -> bool:
    return isinstance(held, dict) and isinstance(held.get("bytes"), int) and isinstance(held.get("sha256", ""), str)


def damage(folder: Path, record: dict[str, Any], hashes: bool = False) -> Iterator[tuple[str, str]]:
    """Recorded files that are not as recorded, as (name, what is wrong); the bytes are looked at if `hashes`."""
    for name, recorded in record["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                yield name, f"has {size} bytes instead of {recorded['bytes']}"
            elif hashes and sha256(path) != recorded.get("sha256"):
                yield name, "has other bytes than it had"
        except FileNotFoundError:
            yield name, "is missing"
        except OSError as error:
            yield name, f"cannot be read ({error.strerror})"


def damaged(folder: Path, name: str, problem: str) -> UserError:
    """The error that names the folder, the file and the fix."""
    return UserError(
        f"{folder} is damaged, {name} {problem}: remove the folder and run again "
        f"(python -m speechforget.store verify --output {folder.parent.parent} looks at all)."
    )


def verified(folder: Path, name: str) -> Path:
    """The path of a file of a finished folder, after its bytes were compared with what DONE records. Raises UserError where they differ."""
    record = read_done(folder)
    if record is None:
        raise UserError(f"{folder} is not finished: run the command that makes it again.")
    if name not in record["files"]:
        raise damaged(folder, name, "was never part of it")
    for found, problem in damage(folder, {"files": {name: record["files"][name]}}, hashes=True):
        raise damaged(folder, found, problem)
    return folder / name
