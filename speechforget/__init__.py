"""speechforget: machine unlearning of speech models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechforget.inference import Recogniser

__all__ = ["load"]


def load(folder: str | Path) -> Recogniser:
    """The unlearned classifier of a result folder (or any model folder), ready to classify: see `loading.Recogniser`."""
    from speechforget.inference import load as load_folder

    return load_folder(folder)
