"""Assign training utterances to shards and slices, by hashes of their names and a seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.errors import UserError

COLUMNS = {
    "utterance": "unit",
    "speaker": "speaker",
}  # exact copies of an utterance are one unit, so they stay together
NOWHERE = -1


def assign(table: pd.DataFrame, options: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return shard and slice of each row of a split corpus, (rows, 2); -1 for rows that are not for training.

    options: `shards`, `slices`, `by` (utterance or speaker) and `seed`. Names are sorted by their hash and dealt in
    turn over all training rows of the split. No request changes these, so no request moves an utterance.
    Raises UserError for a corpus without speakers, and for more cells than names.
    """
    column = COLUMNS[options["by"]]
    if column not in table:
        raise UserError(f"The corpus does not say who speaks: set train.sisa.by=utterance, not {options['by']}.")
    training = np.flatnonzero(table["subset"].to_numpy() == "train")
    names = table[column].astype(str).to_numpy()[training]
    salt = f"{options['seed']}\x1f"
    dealt = sorted(set(names), key=lambda name: (hashlib.sha256(f"{salt}{name}".encode()).digest(), name))
    shards, slices = int(options["shards"]), int(options["slices"])
    if len(dealt) < shards * slices:
        raise UserError(
            f"{shards} shards of {slices} slices need at least {shards * slices} different {column}s to train on, and "
            f"there are {len(dealt)}: lower train.sisa.shards or train.sisa.slices."
        )
    place = {name: number % (shards * slices) for number, name in enumerate(dealt)}
    cell = np.array([place[name] for name in names], dtype=np.int64)
    found = np.full((len(table), 2), NOWHERE, dtype=np.int64)
    found[training] = np.stack([cell % shards, cell // shards], axis=1)
    return found


def slice_epochs(epochs: int, slices: int) -> list[int]:
    """Return the epochs of each slice: together as many passes over samples as `epochs` over the whole shard.

    Slice r trains on slices 0 to r. With e = 2 epochs / (slices + 1), it gets floor((r + 1) e) - floor(r e) epochs.
    Source: Bourtoule et al., "Machine unlearning", IEEE S&P 2021, and their code.
    """
    ends = [number * 2 * epochs // (slices + 1) for number in range(slices + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]
