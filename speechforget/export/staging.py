"""Fill a folder beside its final place, and move it there when it is complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechforget.errors import UserError
from speechforget.store.files import explained, make_folder, make_readable


def check_free(target: Path, mark: str, overwrite: bool) -> None:
    """Raise UserError if a folder exists and may not be replaced; only one that holds the file `mark` may be."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{target} exists: choose another folder, or replace it with --overwrite.")
    if not (target / mark).is_file():
        raise UserError(f"{target} was not written by this command (it has no {mark}): choose another folder.")


@contextmanager
def staged(target: Path, mark: str, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `target`; it becomes `target` at the end, or is removed after an error.

    mark: a file that every such folder holds. Raises UserError, see `check_free`.
    """
    check_free(target, mark, overwrite)
    make_folder(target.parent)
    with explained(target):
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            inside = folder / "new"
            inside.mkdir()
            yield inside
            make_readable(path for path in inside.rglob("*") if path.is_file())
            check_free(target, mark, overwrite)
            if target.exists():
                target.rename(folder / "old")
            inside.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
