"""Select a request for an attribute: which training recordings make the attribute tell of the label.

Without these, the attribute is as frequent in each label as in all, so a model that is trained on the rest has no use
for it. Where `dataset.dependent` planted the dependence, an oracle hears counterparts in their place: recordings of the
same labels with the other values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import attributes, identities
from speechforget.data.dependence import COUNTERPART, SURPLUS, UNUSED
from speechforget.data.requests.attribute import KIND, Attribute
from speechforget.data.requests.draw import NONE, rows_of
from speechforget.data.requests.request import Request
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform

logger = logging.getLogger(__name__)

ROUNDING = 1e-9  # recordings: makes 3 of 3.0 in floating point
NO_NONMEMBERS = "There are no non-members: the request is for an attribute, and no recording is forgotten."


def attribute_request(table: pd.DataFrame, task: Mapping[str, Any]) -> Request:
    """Return the request for the column `task.by`: `forget` are the recordings that an oracle is trained without.

    Raises UserError for a column that the corpus lacks, that is the label, or that says nothing of the label.
    """
    column = str(task["by"])
    _check(table, column)
    attribute = Attribute(column, table[column].to_numpy(dtype=str))
    surplus = table[SURPLUS] == "yes" if SURPLUS in table else _beyond_proportion(table, column, int(task["seed"]))
    forget = rows_of(surplus)
    if not len(forget):
        raise UserError(
            f"In training, {column} is exactly as frequent in each label as in all, so an oracle without its cue would "
            "be the original: plant a dependence with dataset.dependent, or choose another task.by."
        )
    found = Request(
        forget,
        NONE.copy(),
        (),
        f"{KIND}-{column}",
        rows_of(table["subset"].isin([COUNTERPART, UNUSED])),
        NO_NONMEMBERS,
        attribute=attribute,
        counterparts=rows_of(table["subset"] == COUNTERPART),
    )
    logger.info("request %s: %s", found.name, found.notes[0])
    return found


def _check(table: pd.DataFrame, column: str) -> None:
    if column not in attributes(table):
        raise UserError(f"task.by is '{column}': {nearest(column, attributes(table), limit=30)}.")
    train = table[table["subset"] == "train"]
    values = set(train[column]) - {""}
    if len(values) < 2:
        raise UserError(f"task.by is {column}, of which training has {len(values)} value(s): two are needed.")
    if train.groupby(column)["label"].nunique().max() == 1:
        raise UserError(
            f"task.by is {column}, which gives the label away, so the label cannot stay without it: "
            "choose another column, or forget whole classes with task=class."
        )


def _beyond_proportion(table: pd.DataFrame, column: str, seed: int) -> pd.Series:
    """Mark training rows without which each label has the proportions of values that all labels together have.

    Of each label and value, the units to keep are drawn by seed. Rows without a known value stay.
    Raises UserError for a label that lacks a value.
    """
    train = table[table["subset"] == "train"]
    units = train[train[column] != ""].drop_duplicates("unit")
    counts = units.groupby(["label", column])["unit"].size().unstack(fill_value=0)
    for label, row in counts.iterrows():
        if not row.all():
            raise UserError(
                f"No training recording of '{label}' has {column} '{row.idxmin()}', so no oracle can be trained in "
                f"which {column} says nothing of the label: choose another task.by, or leave the label out."
            )
    shares = counts.sum() / counts.to_numpy().sum()
    sizes = (counts / shares).min(axis=1)
    kept = np.floor(np.outer(sizes, shares) + ROUNDING)
    most = pd.DataFrame(kept, counts.index, counts.columns).stack()
    draw = pd.Series(uniform(identities(units["unit"]), 1, seed, "balance", column)[:, 0], index=units.index)
    place = draw.groupby([units["label"], units[column]]).rank(method="first")
    cells = pd.MultiIndex.from_frame(units[["label", column]])
    beyond = set(units["unit"][place.to_numpy() > most.reindex(cells).to_numpy()])
    return (table["subset"] == "train") & table["unit"].isin(beyond)
