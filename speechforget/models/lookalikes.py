"""Recognise folders that users give instead of a model, and say which folder to give.

They are an adapter of peft, a folder of checkpoints, and a pointer of git-lfs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from speechforget.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
MODELS = ("config.json", "model.json", "adapter_config.json")  # any of them marks a folder that may hold a model


def instead(folder: Path) -> str | None:
    """Say what a folder without a model holds and which one to give, as the end of a sentence; None: unknown."""
    if (folder / "adapter_config.json").exists():
        return (
            "it holds only an adapter of peft: merge it into its model (model.merge_and_unload()), "
            "save that (save_pretrained) and give the folder where it is saved"
        )
    inside = (
        sorted((path for path in folder.iterdir() if any((path / name).exists() for name in MODELS)), key=_in_order)
        if folder.is_dir()
        else []
    )
    if not inside:
        return None
    others = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
    return f"models lie in folders below it ({inside[-1].name}{others}): give one of them, such as {inside[-1]}"


def _in_order(path: Path) -> tuple[str, int]:
    """Sort checkpoint-500 before checkpoint-1000."""
    number = re.search(r"\d+$", path.name)
    return (path.name[: number.start()], int(number[0])) if number else (path.name, 0)


def check_no_pointer(files: Iterable[Path]) -> None:
    """Check that no file is a pointer of git-lfs, as in a clone without it. Missing files pass. Raises UserError."""
    for file in files:
        if not file.is_file() or file.stat().st_size > 1000:
            continue
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(
                    f"{file} is a pointer of git-lfs, not the weights themselves: run `git lfs pull` in {file.parent}."
                )
