"""What is given in place of a model and is none: an adapter, a training's folder of checkpoints, a pointer of git-lfs; and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from speechforget.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
MODELS = ("config.json", "model.json", "adapter_config.json")  # what a folder that could be meant holds


def instead(folder: Path) -> str | None:
    """What a folder without a model holds, and which one to give, as the end of a sentence; None where nothing known lies there."""
    if (folder / "adapter_config.json").exists():
        return (
            "it holds an adapter of peft alone: merge it into its model (model.merge_and_unload()), "
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
    """checkpoint-500 before checkpoint-1000."""
    number = re.search(r"\d+$", path.name)
    return (path.name[: number.start()], int(number[0])) if number else (path.name, 0)


def check_no_pointer(files: Iterable[Path]) -> None:
    """Raises UserError for a file that only says which weights belong there, as a clone without git-lfs leaves. Files that are missing pass."""
    for file in files:
        if not file.is_file() or file.stat().st_size > 1000:
            continue
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(
                    f"{file} is a pointer of git-lfs, not the weights themselves: run `git lfs pull` in {file.parent}."
                )
