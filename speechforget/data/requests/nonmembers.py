"""Choose the non-members of a request: holdout utterances that differ from it only in membership."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpora.base import attributes, identities
from speechforget.data.requests.draw import Rows, rows_of
from speechforget.data.tables.transcript import TEXT
from speechforget.seeding import uniform

logger = logging.getLogger(__name__)

MISSING = 0.05  # share of the non-members that may be missing because a cell has too few
COVERED = 0.5  # share of the request whose cells must occur in the holdout
SPREAD = 3  # standard deviations of a random draw beyond which a request is concentrated
NAMES_SHOWN = 3


def matching_rows(
    table: pd.DataFrame, forget: Rows, seed: int, columns: Sequence[str], withdrawn: Rows
) -> tuple[Rows, str]:
    """Return holdout rows with the proportions of `forget` over the cells of `columns`, and a sentence about them.

    Takes as many as possible. Up to a twentieth may be missing from their proportion, so that one small cell does not
    limit all others. Cells without holdout are left out. If more than half of the request is in such cells there are no
    non-members: they would be recordings of other people. All rows have labels of the request.
    withdrawn: rows that must not be taken.
    """
    free = table["label"].isin(set(table["label"].iloc[forget])).to_numpy(copy=True)
    free[withdrawn] = False
    holdout = table[(table["subset"] == "holdout") & free]
    cell = _cells(table, columns)
    asked, there = cell.iloc[forget].value_counts(), cell[holdout.index].value_counts()
    shared = asked.index.intersection(there.index)
    covered = int(asked[shared].sum())
    words = " and ".join(columns)
    if len(shared) < len(asked) and (table["subset"] == "holdout").any():
        unmatched = asked.index.difference(shared)
        names = [
            " ".join(table[column].iloc[row] for column in columns)
            for row in forget[_first_of(cell.iloc[forget], unmatched)]
        ]
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        logger.warning("no holdout utterance of the %s %s: left out of the non-members", words, shown)
    if covered < COVERED * len(forget):
        found = f"the holdout matches, by {words}, only {covered} of {len(forget)} forgotten"
        return np.zeros(0, dtype=np.int64), f"There are no non-members: {found}."
    taken = _quotas(asked[shared], there[shared])
    draws = pd.Series(uniform(identities(holdout["id"]), 1, seed, "nonmembers")[:, 0], index=holdout.index)
    position = draws.groupby(cell[holdout.index]).rank(method="first")
    chosen = position <= cell[holdout.index].map(taken).fillna(0)
    rows = np.sort(holdout.index[chosen].to_numpy(dtype=np.int64))
    rest = (
        ""
        if covered == len(forget)
        else f"; {len(forget) - covered} of {len(forget)} forgotten have no match in the holdout"
    )
    labels = "" if "label" in columns else ", of the request's labels"
    return rows, f"Non-members: {len(rows)} holdout recordings, matched by {words}{labels}{rest}."


def _cells(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Number the combinations of values."""
    return table.groupby(list(columns), sort=True).ngroup() if columns else pd.Series(0, index=table.index)


def _first_of(cell: pd.Series, wanted: pd.Index) -> NDArray[np.int64]:
    """Return the first row of each wanted cell."""
    first = ~cell.duplicated().to_numpy() & cell.isin(wanted).to_numpy()
    return np.flatnonzero(first)


def _quotas(asked: pd.Series, there: pd.Series) -> pd.Series:
    """Return how many rows to take of each cell: the largest multiple of `asked` with at most `MISSING` missing."""
    wanted, held = asked.to_numpy(float), there.to_numpy(float)
    low, high = float((held / wanted).min()), float(held.sum() / wanted.sum() / (1 - MISSING))
    for _ in range(50):
        middle = (low + high) / 2
        enough = np.maximum(middle * wanted - held, 0).sum() <= MISSING * middle * wanted.sum()
        low, high = (middle, high) if enough else (low, middle)
    return pd.Series(np.minimum(held, np.maximum(1, np.rint(low * wanted))), index=asked.index)


def concentrated(table: pd.DataFrame, forget: Rows) -> list[str]:
    """Return the columns in which a request differs from a random draw, such as speaker; label if there is none.

    The column that differs most comes first, then those that still differ within its values, and so on. So all
    recordings of a speaker differ only in speaker; the speaker's recordings of one word differ in speaker and word.
    The statistic is the sum of squared differences between the counts of a column's values and their means under random
    draws, over the sum of their (hypergeometric) variances: 1 on average by chance. An excess of more than `SPREAD`
    standard deviations is a difference. Copies count once.
    """
    asked = np.zeros(len(table), dtype=bool)
    asked[forget] = True
    train = table.assign(asked=asked)[table["subset"] == "train"].drop_duplicates("unit")
    names = [column for column in attributes(table) if column != TEXT]  # hardly two recordings share a transcript
    columns = ["label", *(column for column in names if not (train[column] == train["label"]).all())]
    chosen: list[str] = []
    while columns:
        excess = {column: _excess(train, chosen, column) for column in columns}
        best = max(columns, key=lambda column: excess[column])
        if excess[best] <= 0:
            break
        chosen.append(best)
        columns.remove(best)
    for column in list(chosen):  # drop columns implied by others, such as accent by speaker
        others = [other for other in chosen if other != column]
        if others and train.groupby(others)[column].nunique().max() == 1:
            chosen = others
    return chosen or ["label"]


def _excess(train: pd.DataFrame, within: Sequence[str], column: str) -> float:
    """Return by how much a column differs more than by chance, within the cells of other columns."""
    cell = _cells(train, within)
    each = train["asked"].groupby([cell, train[column]]).agg(["size", "sum"])
    whole = each.groupby(level=0).transform("sum")
    share = each["size"] / whole["size"]
    left = (whole["size"] - whole["sum"]) / (whole["size"] - 1).clip(lower=1)
    variance = whole["sum"] * share * (1 - share) * left
    total = float(variance.sum())
    if total <= 0:
        return 0.0
    freedom = max(1.0, total**2 / float((variance**2).sum()) - int((variance.groupby(level=0).sum() > 0).sum()))
    found = float(((each["sum"] - whole["sum"] * share) ** 2).sum()) / total
    return found - 1 - SPREAD * float(np.sqrt(2 / freedom))


def all_of(table: pd.DataFrame, picked: pd.Series, of: str) -> tuple[Rows, str]:
    """Return the holdout rows among those picked, and a sentence about them."""
    rows = rows_of((table["subset"] == "holdout") & picked)
    return rows, f"Non-members: {len(rows)} holdout recordings, all that are {of}."
