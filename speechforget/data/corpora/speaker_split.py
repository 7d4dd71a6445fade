"""Draw test subsets for corpora that have none: whole speakers, or some recordings of every speaker."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import identities
from speechforget.data.split import drawn_share
from speechforget.errors import UserError
from speechforget.seeding import uniform


def test_subset(table: pd.DataFrame, label: str, test: float, seed: int) -> pd.Series:
    """Draw what tests: "test" or "" for each row.

    For label speaker the share `test` of each speaker's recordings; else whole speakers with about that share of the
    recordings. Raises UserError for a share that leaves nothing on one side.
    """
    if not 0 < test < 1:
        raise UserError(f"dataset.corpus.test is {test}: give the share of test recordings, between 0 and 1.")
    if label != "speaker":
        return speakers_apart(table["speaker"], {"test": test, "": 1 - test}, seed)
    tested = drawn_share(table, test, "speaker", "test", seed)
    return pd.Series(np.where(tested, "test", ""), index=table.index)


def speakers_apart(speakers: pd.Series, shares: Mapping[str, float], seed: int) -> pd.Series:
    """Draw the subset of each row so that no speaker is in two.

    shares: subset -> share of the recordings, 1 in all; subsets of share 0 stay empty. Speakers are concatenated in
        random order, each as long as it has recordings, and go to the subset in which their middle is. Each subset
        gets at least one speaker.
    Raises UserError for too few speakers.
    """
    counts = speakers.value_counts().sort_index()
    wanted = [subset for subset, share in shares.items() if share > 0]
    if len(counts) < len(wanted):
        names = ", ".join(subset or "train" for subset in wanted)
        raise UserError(
            f"{len(counts)} speaker(s) cannot be split into {len(wanted)} subsets ({names}) without sharing one: use "
            "a larger part of the corpus."
        )
    turns = uniform(identities(counts.index.to_series()), 1, seed, "speakers apart")[:, 0]
    drawn = counts.iloc[np.argsort(turns, kind="stable")]
    middles = (drawn.cumsum() - drawn / 2).to_numpy() / drawn.sum()
    starts = np.searchsorted(middles, np.cumsum([0.0, *(shares[subset] for subset in wanted)])[:-1])
    for number in range(1, len(wanted)):
        starts[number] = min(max(starts[number], starts[number - 1] + 1), len(drawn) - len(wanted) + number)
    numbers = np.searchsorted(starts, np.arange(len(drawn)), side="right") - 1
    return speakers.map({speaker: wanted[number] for speaker, number in zip(drawn.index, numbers, strict=True)})
