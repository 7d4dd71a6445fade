"""Machine unlearning of speech models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechforget.inference import Recogniser

__all__ = ["load"]


def load(folder: str | Path) -> Recogniser:
    """Load the unlearned classifier of a result folder, or that of a model folder: see `inference.Recogniser`."""
    from speechforget.inference import load as load_folder

    return load_folder(folder)
