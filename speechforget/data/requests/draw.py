"""Draw a share of the training utterances, or values of a column (speakers, classes, accents)."""

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

TINY = 1e-9  # utterances: makes 5 percent of 60 exactly 3 in floating point
Rows = NDArray[np.int64]
NONE: Rows = np.zeros(0, dtype=np.int64)


def rows_of(mask: pd.Series) -> Rows:
    """Return the row numbers of a mask, ascending."""
    return np.flatnonzero(mask.to_numpy()).astype(np.int64)


def with_copies(table: pd.DataFrame, rows: Rows) -> Rows:
    """Return the training rows that are among `rows` or exact copies of one of them."""
    return rows_of((table["subset"] == "train") & table["unit"].isin(table["unit"].iloc[rows]))


def random_rows(table: pd.DataFrame, percent: Any, balanced: bool, seed: int) -> Rows:
    """Return the training rows of the first `percent` of `random_order`."""
    return first_rows(table, random_order(table, balanced, seed), percent)


def random_order(table: pd.DataFrame, balanced: bool, seed: int) -> pd.DataFrame:
    """Return units (a training utterance with its copies) in random order; columns unit and size.

    balanced: the labels take turns, so that any prefix has about equally many utterances of each.
    """
    train = table[table["subset"] == "train"]
    size = train.groupby("unit")["id"].transform("size")
    units = train.assign(size=size, draw=uniform(identities(train["unit"]), 1, seed, "request")[:, 0]).drop_duplicates(
        "unit"
    )
    units = units.sort_values(["draw", "unit"])
    if balanced:
        units = units.assign(turn=units.groupby("label")["size"].cumsum() - units["size"]).sort_values(
            ["turn", "draw", "unit"]
        )
    return units[["unit", "size"]]


def first_rows(table: pd.DataFrame, units: pd.DataFrame, percent: Any) -> Rows:
    """Return a prefix of an order of units as training rows; a larger percent includes every smaller one."""
    wanted = max(1, round(share_of(percent) / 100 * int(units["size"].sum())))
    reached = int(np.searchsorted(units["size"].cumsum().to_numpy(), wanted))
    return rows_of((table["subset"] == "train") & table["unit"].isin(units["unit"].iloc[: reached + 1]))


def share_of(percent: Any, option: str = "task.percent") -> float:
    """Read a percentage. Raises UserError unless it is a number above 0 and below 100. option: the key that has it."""
    try:
        share = math.nan if isinstance(percent, bool) else float(percent)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 < share < 100:
        raise UserError(f"{option} must be a share of the training utterances, above 0 and below 100, not {percent!r}.")
    return share


def named_values(table: pd.DataFrame, column: str, named: Any, option: str) -> list[str]:
    """Return the values named by the key `option`, sorted. Raises UserError unless all occur in training."""
    known = sorted(set(table.loc[table["subset"] == "train", column]) - {""})
    values = [named] if isinstance(named, (str, int, float)) else list(named)
    for value in values:
        if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isnan(value)):
            raise UserError(
                f"{option} holds {json.dumps(value)}, not a name: "
                "put words such as yes, no, on, off, null and nan in quotes."
            )
    if not values:
        raise UserError(f"{option} is empty: {nearest('', known)}.")
    return sorted({_known(value, known, option) for value in values})


def _known(value: Any, known: Sequence[str], option: str) -> str:
    if str(value) in known and value != math.inf:
        return str(value)
    if isinstance(value, str) and tidy(value) in known:
        return tidy(value)
    # YAML reads names such as 007 and 12e45678 as numbers.
    alike = [name for name in known if _is_number(name, value)] if isinstance(value, (int, float)) else []
    if len(alike) == 1:
        return alike[0]
    hint = "; put names that look like numbers in quotes" if isinstance(value, (int, float)) else ""
    raise UserError(f"{option} names '{value}', which the training subset lacks: {nearest(str(value), known)}{hint}.")


def _is_number(name: str, value: float) -> bool:
    try:
        return float(name) == value
    except ValueError:
        return False


def drawn_values(
    table: pd.DataFrame, column: str, number: Any, seed: int, option: str, share: Any = None, fewest: Any = None
) -> list[str]:
    """Draw values of a column that occur in training; return them sorted. A larger number includes every smaller one.

    fewest: draw only values with at least so many training utterances. option: the key that names values.
    share: instead of `number`, draw values that cover share[0] to share[1] percent of the training utterances. In
        random order, a value is taken unless that would exceed the range or make it unreachable, until it is reached.
    Raises UserError if there are no such values.
    """
    counts = _counts(table, column)
    if counts.empty:
        raise UserError(f"No training utterance has a {column}: choose another task.by.")
    eligible = counts[counts >= _fewest(fewest)]
    if eligible.empty:
        raise UserError(
            f"No {column} has task.fewest={fewest} training utterances: "
            f"'{counts.idxmax()}' has the most, {counts.max()}."
        )
    ordered = _in_drawn_order(eligible, column, seed)
    if share is not None:
        return sorted(_sharing(table, column, ordered, share))
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(ordered):
        raise UserError(f"task.number is {number}: name {option}, or ask for 1 to {len(ordered)} of them.")
    return sorted(ordered.index[:number])


def number_for(table: pd.DataFrame, column: str, percent: Any, seed: int) -> int:
    """Return how many drawn values come nearest to a share of the training utterances: at least one, but not all."""
    wanted = share_of(percent) / 100 * int((table["subset"] == "train").sum())
    held = _in_drawn_order(_counts(table, column), column, seed).cumsum().to_numpy()[:-1]
    return int(np.abs(held - wanted).argmin()) + 1 if len(held) else 1


def _in_drawn_order(counts: pd.Series, column: str, seed: int) -> pd.Series:
    draws = uniform(identities(counts.index.to_series()), 1, seed, "request", column)[:, 0]
    return counts.iloc[np.argsort(draws, kind="stable")]


def _fewest(fewest: Any) -> int:
    if fewest is None:
        return 0
    if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 0:
        raise UserError(f"task.fewest is {fewest}: give a number of training utterances, or null.")
    return fewest


def _counts(table: pd.DataFrame, column: str) -> pd.Series:
    """Count the training utterances of each value, copies included, sorted by name."""
    train = table[table["subset"] == "train"]
    size = train.groupby("unit")["id"].transform("size")
    pairs = train.assign(size=size)[train[column] != ""].drop_duplicates([column, "unit"])
    return pairs.groupby(column)["size"].sum().sort_index()


def _sharing(table: pd.DataFrame, column: str, counts: pd.Series, share: Any) -> list[str]:
    low, high = share_range(share)
    total = int((table["subset"] == "train").sum())
    fewest, most = max(1, math.ceil(low / 100 * total - TINY)), math.floor(high / 100 * total + TINY)
    sizes = counts.tolist()
    # Bit n of sums[i] is set if some of the values from the i-th on have n <= most utterances together.
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
            f"task.share={list(share)} cannot be met: several {column}s share exact copies; set task.values instead."
        )
    return chosen


def share_range(share: Any) -> tuple[float, float]:
    """Read `task.share`, in percent. Raises UserError unless it is [lowest, highest], both above 0 and below 100."""
    try:
        low, high = (float(bound) for bound in share)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low <= high < 100:
        raise UserError(
            "task.share must be [lowest, highest], in percent of the training utterances, such as [2.5,5], "
            f"not {share}."
        )
    return low, high


def _reachable(column: str, sizes: Sequence[int], fewest: int, most: int, total: int) -> str:
    """Say which numbers of utterances come nearest to a range that no values meet."""
    sums = 1
    for size in sizes:
        sums |= sums << size
    below = (sums & ((1 << fewest) - 1)).bit_length() - 1
    above = sums >> (most + 1)
    possible = [below] if below else []
    if above:
        possible.append(most + 1 + (above & -above).bit_length() - 1)
    found = " or ".join(f"{count} ({100 * count / total:.3g} percent)" for count in possible)
    return (
        f"no {column}s together have {fewest} to {most} of the {total} training utterances; "
        f"the nearest possible numbers are {found}"
    )
