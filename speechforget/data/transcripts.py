"""Transcripts as labels: their letters are the outputs of a model, and each utterance has a row of letter numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.tables.transcript import TEXT, letters, spelled

# A score table of texts has two outcomes: what was said, with its probability, and all other texts together.
SAID, OTHER = "what was said", "another text"
BLANK = ""  # name of the first output of a model of texts
NO_LETTER = -1
DURATIONS = 5  # groups of about equal size, by which non-members match a request


def classes_of(table: pd.DataFrame) -> list[str]:
    """Name the labels of a split corpus in the order of score tables: the two outcomes of transcripts, or classes."""
    names = sorted(table["label"][table["subset"] == "train"].unique())
    return [SAID, OTHER] if names == [SAID] else names


def transcripts(table: pd.DataFrame) -> pd.Series:
    """Return what each row says, as models spell it; "" where the corpus does not say."""
    return table[TEXT].map(spelled)


def outputs(table: pd.DataFrame) -> list[str]:
    """Name the outputs of a model of these texts: the blank, and each letter that occurs."""
    return [BLANK, *letters(table[TEXT])]


def numbered(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the texts as numbers of outputs, (rows, letters of the longest), filled up with -1."""
    number, texts = {name: place for place, name in enumerate(names)}, transcripts(table)
    found = np.full((len(table), max(map(len, texts), default=0)), NO_LETTER, dtype=np.int64)
    for row, text in enumerate(texts):
        found[row, : len(text)] = [number[letter] for letter in text]
    return found


def texts_of(numbers: NDArray[np.integer], names: Sequence[str]) -> list[str]:
    """Return rows of output numbers, filled up with -1, as texts."""
    letter = np.array([*names, ""], dtype=object)  # -1 is the last place
    return ["".join(row).strip() for row in letter[numbers]]


def durations(table: pd.DataFrame) -> pd.Series:
    """Return the group of each row by its length, such as "1.2 to 1.5 s": `DURATIONS` groups, as large in training."""
    trained = table["seconds"][table["subset"] != "test"]
    edges = np.quantile(trained, np.linspace(0, 1, DURATIONS + 1)[1:-1])
    place = np.searchsorted(edges, table["seconds"], side="right")
    ends = [f"{edge:.2f}" for edge in edges]
    names = [f"below {ends[0]} s", *(f"{low} to {high} s" for low, high in pairwise(ends))]
    return pd.Series(np.array([*names, f"from {ends[-1]} s"])[place], index=table.index)
