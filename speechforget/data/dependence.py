"""Plant a dependence of label and attribute: the original trains on recordings in which one tells of the other.

Each label has a favoured value of the attribute, the labels in turn. Of a label, the original trains on `percent` of
the favoured value; an oracle trains on as many recordings of the same label with equally many of each value. Both are
drawn from the training subset of the split, in one order, so they share as many as they can. Holdout, validation and
test keep the proportions of the corpus.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import attributes, identities
from speechforget.data.requests.draw import share_of
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform

logger = logging.getLogger(__name__)

COUNTERPART, UNUSED = "counterpart", "unused"  # subsets: only an oracle trains on it; no model does
SURPLUS = "surplus"  # column: "yes" for what the original trains on and an oracle does not
FEWEST = 5  # recordings of a label that are trained on


def depend(table: pd.DataFrame, dependent: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of `split` with two more subsets, for what the original does not train on, and `surplus`.

    Recordings without a known value are unused. Exact copies share a subset.
    Raises UserError for an attribute that the corpus lacks, or with too few recordings.
    """
    column = dependent["column"]
    if column is None:
        return table
    known = attributes(table)
    if column not in known:
        raise UserError(f"dataset.dependent.column is '{column}': {nearest(str(column), known)}.")
    train = table[table["subset"] == "train"]
    units = train[train[column] != ""].drop_duplicates("unit")
    values, labels = sorted(units[column].unique()), sorted(train["label"].unique())
    if len(values) < 2:
        raise UserError(f"dataset.dependent needs two values of {column} in training, and there are {len(values)}.")
    units = units.assign(draw=uniform(identities(units["unit"]), 1, "dependent", int(dependent["seed"]))[:, 0])
    place = units.sort_values(["draw", "unit"]).groupby(["label", column]).cumcount().reindex(units.index)
    taken = _taken(units, column, labels, values, dependent)
    cells = list(zip(units["label"], units[column], strict=True))
    most = np.array([taken[cell] for cell in cells])
    original, oracle = (set(units["unit"][place.to_numpy() < most[:, side]]) for side in (0, 1))
    inside, name = (table["subset"] == "train").to_numpy(), table["unit"]
    subset = table["subset"].to_numpy(dtype=object, copy=True)
    subset[inside & ~name.isin(original).to_numpy()] = COUNTERPART
    subset[inside & ~name.isin(original | oracle).to_numpy()] = UNUSED
    logger.info("%s tells of the label in %d training recordings", column, int(np.sum(subset == "train")))
    surplus = (subset == "train") & ~name.isin(oracle).to_numpy()
    return table.assign(subset=subset, **{SURPLUS: np.where(surplus, "yes", "")})


def _taken(
    units: pd.DataFrame, column: str, labels: Sequence[str], values: Sequence[str], dependent: Mapping[str, Any]
) -> dict[tuple[str, str], list[int]]:
    """Return how many units of each label and value the original trains on, and how many an oracle does."""
    counts = units.groupby(["label", column])["unit"].size()
    favoured, even = share_of(dependent["percent"], "dataset.dependent.percent") / 100, 1 / len(values)
    others = (1 - favoured) / (len(values) - 1)
    found: dict[tuple[str, str], list[int]] = {}
    for number, label in enumerate(labels):
        shares = dict.fromkeys(values, others) | {values[number % len(values)]: favoured}
        room = int(min(counts.get((label, value), 0) / max(share, even) for value, share in shares.items()))
        if room < FEWEST:
            raise UserError(
                f"dataset.dependent leaves {room} training recordings of '{label}', and {FEWEST} are needed: "
                f"use a larger corpus, or another column than {column}."
            )
        sides = _whole(list(shares.values()), room), _whole([even] * len(values), room)
        found |= {(label, value): counts for value, *counts in zip(values, *sides, strict=True)}
    return found


def _whole(shares: Sequence[float], room: int) -> list[int]:
    """Divide `room` units by shares into whole numbers, none of which is a unit away from its share."""
    edges = np.rint(np.cumsum([0.0, *shares]) * room)
    return [int(count) for count in np.diff(edges)]
