"""Read score tables: one file per column, as `stages.score` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechforget.store import verified

COLUMNS = ("row", "label", "logits", "loss", "embedding")


def column(folder: Path, name: str) -> Path:
    """Return the file of a column."""
    return folder / f"{name}.npy"


def read_scores(folder: Path) -> Mapping[str, np.ndarray]:
    """Return the columns of a finished folder, read-only and memory-mapped.

    row (n,), label (n,), logits (n, classes) float32, loss (n,) float64 in nats, embedding (n, dimensions) float32.
    Raises UserError if the bytes differ from the recorded ones.
    """
    return {name: np.load(verified(folder, column(folder, name).name), mmap_mode="r") for name in COLUMNS}
