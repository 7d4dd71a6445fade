"""Machine unlearning of speech models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechforget.inference import Recogniser

__all__ = ["load"]


def load(folder: str | Path, device: str = "auto", windows: str = "scored") -> Recogniser:
    """Load the classifier that a result delivers, or that of a model or exported folder: see `inference.load`."""
    from speechforget.inference import load as load_folder

    return load_folder(folder, device, windows)
