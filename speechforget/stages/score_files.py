"""Read score tables: one file per column, as `stages.score` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechforget.evaluation.tables import Scores
from speechforget.store import verified

COLUMNS = ("row", "label", "logits", "loss", "embedding")
MORE = ("heard", "errors")  # of texts


def column(folder: Path, name: str) -> Path:
    """Return the file of a column."""
    return folder / f"{name}.npy"


def read_scores(folder: Path) -> Mapping[str, np.ndarray]:
    """Return the columns of a finished folder, read-only and memory-mapped.

    row (n,), label (n,), logits (n, classes) float32, loss (n,) float64 in nats, embedding (n, dimensions) float32.
    Of texts, also those of `stages.transcript_columns`. Raises UserError if the bytes differ from the recorded ones.
    """
    names = [*COLUMNS, *(name for name in MORE if column(folder, name).exists())]
    return {name: np.load(verified(folder, column(folder, name).name), mmap_mode="r") for name in names}


def read_untrained(folder: Path) -> np.ndarray:
    """Return logits (models, utterances, classes) of models of random weights, as `stages.untrained` writes them."""
    found: np.ndarray = np.load(verified(folder, column(folder, "logits").name), mmap_mode="r")
    return found


def read_table(
    folder: Path, labels: np.ndarray, role: np.ndarray, nonmember: np.ndarray, withdrawn: np.ndarray, seconds: float
) -> Scores:
    """Return the scores of a model with the role of each utterance, without the withdrawn rows.

    labels, role, nonmember: of every row of the corpus. seconds: of making the model.
    Raises RuntimeError if the folder does not hold exactly these rows.
    """
    columns, rows = read_scores(folder), np.arange(len(role))
    if not np.array_equal(columns["row"], rows) or not np.array_equal(columns["label"], labels):
        raise RuntimeError(f"{folder} does not hold the utterances of this corpus")
    kept = np.setdiff1d(rows, withdrawn) if len(withdrawn) else slice(None)
    logits, loss, embedding = (columns[name][kept] for name in ("logits", "loss", "embedding"))
    texts = {name: np.asarray(columns[name][kept]) for name in MORE if name in columns}
    return Scores(role[kept], nonmember[kept], labels[kept], logits, np.asarray(loss), embedding, seconds, **texts)
