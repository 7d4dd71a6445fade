"""Read and write `DONE`, the manifest of a finished folder: size and sha256 of every other file.

`DONE` is written last, after all other files have reached the disk. So a folder with it is complete; a folder without
it, or with half of it, is unfinished. Sizes are cheap and compared at every use. `verified` and
`speechforget store verify` compare hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store.files import make_readable, sync

DONE = "DONE"
# Folders that trackers may append to later.
TRACKERS = {"wandb", "csv", "tensorboard"}
# Only caches of at most this many files record their sizes and hashes.
FEW = 64


def files_of(folder: Path) -> Iterator[Path]:
    """Yield every file that belongs to an artefact, in a fixed order."""
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        if here == folder:
            folders[:] = [name for name in folders if name not in TRACKERS]
        folders.sort()
        yield from (here / name for name in sorted(names) if here != folder or name != DONE)


def write_done(folder: Path, key: str, check: Callable[[], None]) -> None:
    """Record every file of `folder` and finish it, unless `check` raises just before `DONE` appears."""
    kept = list(_without_leftovers(folder))
    make_readable(kept)
    files = _synced(folder, kept)
    for parent in {folder, *((folder / name).parent for name in files)}:
        sync(parent)
    _write(folder, {"key": key, "files": files}, check)


def write_cache_done(folder: Path, check: Callable[[], None]) -> None:
    """Finish a cache.

    Beyond `FEW` files, none is recorded: caches can be rebuilt, and their files are checked when they are read.
    """
    paths = list(files_of(folder))
    files: dict[str, dict[str, Any]] = {}
    if len(paths) <= FEW:
        files = _synced(folder, paths)
    else:
        os.sync()
    _write(folder, {"key": folder.name, "files": files}, check)


def strike(folder: Path, name: str) -> None:
    """Remove a file from a finished folder, which stays finished; DONE then lists its record under `purged`.

    Safe to repeat after a kill: DONE is written first.
    """
    record = read_done(folder)
    if record is not None and name in record["files"]:
        purged = {**record.get("purged", {}), name: record["files"].pop(name)}
        _write(folder, {**record, "purged": purged}, lambda: None)
    (folder / name).unlink(missing_ok=True)


def _synced(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Flush files to disk; return size and sha256 of each by its path in the folder."""
    files: dict[str, dict[str, Any]] = {}
    for path in paths:
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return files


def _write(folder: Path, record: dict[str, Any], check: Callable[[], None]) -> None:
    temporary = folder / f".{DONE}.{os.getpid()}"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sync(temporary)
    check()
    temporary.replace(folder / DONE)
    sync(folder)


def _without_leftovers(folder: Path) -> Iterator[Path]:
    """Yield the files of an artefact; remove temporary files of killed processes.

    A process killed inside `files.write_text` leaves such a file.
    """
    for path in files_of(folder):
        stem, _, number = path.name.rpartition(".")
        if stem.startswith(".") and number.isdigit():
            path.unlink()
        else:
            yield path


def sha256(path: Path) -> str:
    """Hash the bytes of a file; 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_done(folder: Path) -> dict[str, Any] | None:
    """Return the content of DONE; None if it is missing or was cut off, so the folder is unfinished."""
    try:
        record = json.loads((folder / DONE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("key"), str) and isinstance(record.get("files"), dict)
    return record if whole and all(_is_whole(held) for held in record["files"].values()) else None


def _is_whole(held: Any) -> bool:
    return isinstance(held, dict) and isinstance(held.get("bytes"), int) and isinstance(held.get("sha256", ""), str)


def damage(folder: Path, record: dict[str, Any], hashes: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (name, problem) for each file that differs from its record; compare bytes only if `hashes`."""
    for name, recorded in record["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != recorded["bytes"]:
                yield name, f"has {size} bytes instead of {recorded['bytes']}"
            elif hashes and sha256(path) != recorded.get("sha256"):
                yield name, "has other bytes than recorded"
        except FileNotFoundError:
            yield name, "is missing"
        except OSError as error:
            yield name, f"cannot be read ({error.strerror})"


def damaged(folder: Path, name: str, problem: str) -> UserError:
    """Create the error that names the folder, the file and the fix."""
    return UserError(
        f"{folder} is damaged, {name} {problem}: remove the folder and run again "
        f"(`speechforget store verify --output {folder.parent.parent}` checks all folders)."
    )


def verified(folder: Path, name: str) -> Path:
    """Return the path of a file in a finished folder after comparing its bytes with DONE.

    Raises UserError if they differ, if the folder is unfinished, and if the file is not recorded or was withheld.
    """
    record = read_done(folder)
    if record is None:
        raise UserError(f"{folder} is not finished: run the command that builds it again.")
    if name in record.get("withheld", ()):
        raise UserError(f"{folder} was handed over without {name}: ask for a bundle with it (--with-ids).")
    if name not in record["files"]:
        raise damaged(folder, name, "is not recorded in DONE")
    for found, problem in damage(folder, {"files": {name: record["files"][name]}}, hashes=True):
        raise damaged(folder, found, problem)
    return folder / name
