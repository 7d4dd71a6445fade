"""What a request draws: a share of the training utterances, or values of a column (speakers, classes, accents)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpora.base import identities
from speechforget.data.tables.text import tidy
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform

TINY = 1e-9  # of an utterance: 5 percent of 60 are 3, whatever floating point makes of them
Rows = NDArray[np.int64]


def rows_of(mask: pd.Series) -> Rows:
    """Row numbers, ascending."""
    return np.flatnonzero(mask.to_numpy()).astype(np.int64)


def with_copies(table: pd.DataFrame, rows: Rows) -> Rows:
    """The training rows that are among `rows` or exact copies of one of them."""
    return rows_of((table["subset"] == "train") & table["unit"].isin(table["unit"].iloc[rows]))


def random_rows(table: pd.DataFrame, percent: Any, balanced: bool, seed: int) -> Rows:
    """The training rows that hold the first `percent` of `random_order`."""
    return first_rows(table, random_order(table, balanced, seed), percent)


def random_order(table: pd.DataFrame, balanced: bool, seed: int) -> pd.DataFrame:
    """Units (a training utterance with its copies) in drawn order, when `balanced` the labels in turn, by utterances; columns unit and size."""
    train = table[table["subset"] == "train"]
    size = train.groupby("unit")["id"].transform("size")
    units = train.assign(size=size, place=uniform(identities(train["unit"]), 1, seed, "request")[:, 0]).drop_duplicates(
        "unit"
    )
    units = units.sort_values(["place", "unit"])
    if balanced:
        units = units.assign(turn=units.groupby("label")["size"].cumsum() - units["size"]).sort_values(
            ["turn", "place", "unit"]
        )
    return units[["unit", "size"]]


def first_rows(table: pd.DataFrame, units: pd.DataFrame, percent: Any) -> Rows:
    """A prefix of an order of units, as training rows: more percent include fewer."""
    wanted = max(1, round(_share_of(percent) / 100 * int(units["size"].sum())))
    reached = int(np.searchsorted(units["size"].cumsum().to_numpy(), wanted))
    return rows_of((table["subset"] == "train") & table["unit"].isin(units["unit"].iloc[: reached + 1]))


def _share_of(percent: Any) -> float:
    try:
        share = float(percent)
    except (TypeError, ValueError):
        share = float("nan")
    if not 0 < share < 100:
        raise UserError(
            f"task.percent is {percent}: give a share of the training utterances, more than 0 and less than 100."
        )
    return share


def named_values(table: pd.DataFrame, column: str, named: Any, option: str) -> list[str]:
    """The values that the key `option` names, which must occur in training; sorted."""
    known = sorted(set(table.loc[table["subset"] == "train", column]) - {""})
    values = [named] if isinstance(named, (str, int, float)) else list(named)
    for value in values:
        if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
            raise UserError(
                f"{option} holds {json.dumps(value)}, not a name: put words such as yes, no, on, off, null and nan into quotes."
            )
    if not values:
        raise UserError(f"{option} is empty: {nearest('', known)}.")
    return sorted({_known(value, known, option) for value in values})


def _known(value: Any, known: Sequence[str], option: str) -> str:
    if str(value) in known and value != math.inf:
        return str(value)
    if isinstance(value, str) and tidy(value) in known:
        return tidy(value)
    # YAML takes names such as 007 and 12e45678 for numbers.
    alike = [name for name in known if _is_number(name, value)] if isinstance(value, (int, float)) else []
    if len(alike) == 1:
        return alike[0]
    hint = "; put names that look like numbers into quotes" if isinstance(value, (int, float)) else ""
    raise UserError(f"{option} names '{value}', which the training subset lacks: {nearest(str(value), known)}{hint}.")


def _is_number(name: str, value: float) -> bool:
    try:
        return float(name) == value
    except ValueError:
        return False


def drawn_values(
    table: pd.DataFrame, column: str, number: Any, seed: int, option: str, share: Any = None, fewest: Any = None
) -> list[str]:
    """Values of a column drawn from those that occur in training; sorted. More of them include fewer.

    fewest: only values with so many training utterances. share: instead of `number`, so many that they hold from share[0] to share[1] percent of
    the training utterances: in drawn order, each is taken unless the range would be passed or could not be reached any more, until it is reached.
    option: the key that names values.
    """
    counts = _counts(table, column)
    if counts.empty:
        raise UserError(f"No training utterance has a {column}: choose another task.by.")
    eligible = counts[counts >= _fewest(fewest)]
    if eligible.empty:
        raise UserError(
            f"No {column} has task.fewest={fewest} training utterances: '{counts.idxmax()}' has the most, {counts.max()}."
        )
    ordered = _in_drawn_order(eligible, column, seed)
    if share is not None:
        return sorted(_sharing(table, column, ordered, share))
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(ordered):
        raise UserError(f"task.number is {number}: name {option}, or ask for 1 to {len(ordered)} of them.")
    return sorted(ordered.index[:number])


def number_for(table: pd.DataFrame, column: str, percent: Any, seed: int) -> int:
    """How many drawn values of a column come nearest to a share of the training utterances: at least one, and not all of them."""
    wanted = _share_of(percent) / 100 * int((table["subset"] == "train").sum())
    held = _in_drawn_order(_counts(table, column), column, seed).cumsum().to_numpy()[:-1]
    return int(np.abs(held - wanted).argmin()) + 1 if len(held) else 1


def _in_drawn_order(counts: pd.Series, column: str, seed: int) -> pd.Series:
    place = uniform(identities(counts.index.to_series()), 1, seed, "request", column)[:, 0]
    return counts.iloc[np.argsort(place, kind="stable")]


def _fewest(fewest: Any) -> int:
    if fewest is None:
        return 0
    if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 0:
        raise UserError(f"task.fewest is {fewest}: give a number of training utterances, or null.")
    return fewest


def _counts(table: pd.DataFrame, column: str) -> pd.Series:
    """Training utterances of each value, with the copies that come along, by name."""
    train = table[table["subset"] == "train"]
    size = train.groupby("unit")["id"].transform("size")
    pairs = train.assign(size=size)[train[column] != ""].drop_duplicates([column, "unit"])
    return pairs.groupby(column)["size"].sum().sort_index()


def _sharing(table: pd.DataFrame, column: str, counts: pd.Series, share: Any) -> list[str]:
    low, high = _range(share)
    total = int((table["subset"] == "train").sum())
    fewest, most = max(1, math.ceil(low / 100 * total - TINY)), math.floor(high / 100 * total + TINY)
    sizes = counts.tolist()
    # sums[i] holds a bit for each number of utterances, up to `most`, that some of the values from the i-th on have together.
    within = (1 << (most + 1)) - 1
    sums = list(accumulate(reversed(sizes), lambda before, size: before | (before << size & within), initial=1))[::-1]
    if not sums[0] >> fewest:
        raise UserError(f"task.share={list(share)} cannot be met: {_reachable(column, sizes, fewest, most, total)}.")
    chosen, held = [], 0
    for name, size, rest in zip(counts.index, sizes, sums[1:], strict=True):
        needed, room = max(0, fewest - held - size), most - held - size
        if held < fewest and room >= 0 and rest >> needed & ((1 << (room - needed + 1)) - 1):
            chosen.append(str(name))
            held += size
    asked = with_copies(table, rows_of((table["subset"] == "train") & table[column].isin(chosen)))
    if not fewest <= len(asked) <= most:
        raise UserError(
            f"task.share={list(share)} cannot be met: several {column}s share exact copies; name task.values instead."
        )
    return chosen


def _range(share: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in share)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low <= high < 100:
        raise UserError(
            f"task.share is {share}: give the least and the most percent of the training utterances, such as [2.5,5]."
        )
    return low, high


def _reachable(column: str, sizes: Sequence[int], fewest: int, most: int, total: int) -> str:
    """What is nearest to a range that no values meet."""
    sums = 1
    for size in sizes:
        sums |= sums << size
    below = (sums & ((1 << fewest) - 1)).bit_length() - 1
    above = sums >> (most + 1)
    nearby = [below] if below else []
    if above:
        nearby.append(most + 1 + (above & -above).bit_length() - 1)
    found = " or ".join(f"{count} ({100 * count / total:.3g} percent)" for count in nearby)
    return f"no {column}s together hold {fewest} to {most} of the {total} training utterances; the nearest that they hold are {found}"
