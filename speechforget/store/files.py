"""Write files atomically, create folders, and explain failures of both in one sentence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechforget.errors import UserError

UMASK = os.umask(0)  # there is no way to read it alone
os.umask(UMASK)
DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = "Cannot write to {folder} ({reason}): choose another folder with output=<folder>."


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make_readable(files: Iterable[Path]) -> None:
    """Let those read the files whom the umask allows to: safetensors writes files for their owner alone."""
    for file in files:
        file.chmod(file.stat().st_mode | (0o444 & ~UMASK))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises UserError if that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise _full(folder) from error
        raise UserError(REFUSED.format(folder=folder, reason=error.strerror)) from error


@contextmanager
def explained(folder: Path, denied: str = REFUSED) -> Iterator[None]:
    """Turn OSErrors about the parent of `folder` into a UserError that names the folder and the fix.

    This covers a full disk and a folder that cannot be written.
    """
    try:
        yield
    except OSError as error:
        # A file elsewhere, such as an unreadable recording, is another mistake with another fix.
        if not _concerns(error, folder.parent):
            raise
        if error.errno in FULL:
            raise _full(folder) from error
        if error.errno in DENIED:
            raise UserError(denied.format(folder=folder, reason=error.strerror)) from error
        raise


def _full(folder: Path) -> UserError:
    return UserError(
        f"The disk of {folder} is full: make room, then run the same command again; "
        "it continues where this one stopped."
    )


def _concerns(error: OSError, folder: Path) -> bool:
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return True
    path, folder = Path(os.fsdecode(error.filename)).absolute(), folder.absolute()
    # The second case: a parent of the folder could not be created.
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(descriptor)
