"""Files written whole or not at all, folders that can be written to, and one sentence where they cannot."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechforget.errors import UserError

DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = "Cannot write to {folder} ({reason}): choose another place with output=<folder>."


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def make_folder(folder: Path) -> None:
    """Makes the folder and its parents. Raises UserError where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise _full(folder) from error
        raise UserError(REFUSED.format(folder=folder, reason=error.strerror)) from error


@contextmanager
def explained(folder: Path, denied: str = REFUSED) -> Iterator[None]:
    """Turns a full disk, and a folder beside `folder` that cannot be written to, into a UserError that names the folder and the fix."""
    try:
        yield
    except OSError as error:
        # What cannot be read elsewhere, say a recording, is another mistake with another fix.
        if not _concerns(error, folder.parent):
            raise
        if error.errno in FULL:
            raise _full(folder) from error
        if error.errno in DENIED:
            raise UserError(denied.format(folder=folder, reason=error.strerror)) from error
        raise


def _full(folder: Path) -> UserError:
    return UserError(
        f"The disk of {folder} is full: make room, then run the same command again; it goes on where this one stopped."
    )


def _concerns(error: OSError, place: Path) -> bool:
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return True
    path, place = Path(os.fsdecode(error.filename)).absolute(), place.absolute()
    return path.is_relative_to(place) or place.is_relative_to(path)  # the latter where a parent of it could not be made


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {
            errno.EINVAL,
            errno.EOPNOTSUPP,
        }:  # some network file systems know no such thing for folders
            raise
    finally:
        os.close(descriptor)
