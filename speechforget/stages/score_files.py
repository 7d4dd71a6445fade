"""The table of a model's scores as it lies in a folder, a file for each column; written by `scoring`, read here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechforget.store import verified

COLUMNS = ("row", "label", "logits", "loss", "embedding")


def column(folder: Path, name: str) -> Path:
    """The file of a column."""
    return folder / f"{name}.npy"


def read_scores(folder: Path) -> Mapping[str, np.ndarray]:
    """The columns of a finished folder, its bytes compared with what was recorded, memory-mapped and read-only.

    row (n,), label (n,), logits (n, classes) float32, loss (n,) float64 in nats, embedding (n, dimensions) float32. Raises UserError for a
    damaged folder.
    """
    return {name: np.load(verified(folder, column(folder, name).name), mmap_mode="r") for name in COLUMNS}
