"""Utterances that are windows of longer recordings: which of them share sound, so must share a subset and a request."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from speechforget.errors import UserError

TOUCHING = 0.001  # seconds: so much of an overlap is rounding


def overlapping(table: pd.DataFrame) -> pd.Series:
    """A number for each row, equal where windows of one file overlap in time, directly or through others between them."""
    if "path" not in table or not table["path"].duplicated().any():
        return pd.Series(np.arange(len(table)), index=table.index)
    order, first, last = _in_time(table)
    number = np.cumsum(first >= last - TOUCHING)
    return pd.Series(number[np.argsort(order)], index=table.index)


def _in_time(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows by file and start; where each begins, and where all before it in its file end (-inf for the first)."""
    files, _ = pd.factorize(table["path"])
    begin = _starts(table)
    order = np.lexsort((begin, files))
    ends = pd.Series((begin + _seconds(table))[order])
    before = ends.groupby(files[order]).cummax().groupby(files[order]).shift(fill_value=-np.inf)
    return order, begin[order], before.to_numpy()


def _starts(table: pd.DataFrame) -> np.ndarray:
    """Where each window begins; at the beginning of the file where nothing is said."""
    if "start" not in table:
        return np.zeros(len(table))
    return table["start"].astype(float).fillna(0.0).to_numpy()


def _seconds(table: pd.DataFrame) -> np.ndarray:
    """How long each window is; to the end of the file where nothing is said."""
    if "seconds" not in table:
        return np.full(len(table), np.inf)
    return table["seconds"].astype(float).fillna(np.inf).to_numpy()


def check_apart(table: pd.DataFrame, named: Callable[[int], str]) -> None:
    """Raises UserError where windows that overlap in time are given to two subsets; rows with the subset "" are given to none.

    named: what to call the row at a position, such as "line 3".
    """
    given = table["subset"].to_numpy(str)
    number = overlapping(table).to_numpy()
    pairs = pd.DataFrame({"number": number, "subset": given})[given != ""].drop_duplicates()
    torn = pairs["number"][pairs["number"].duplicated()]
    if torn.empty:
        return
    begin = _starts(table)
    end = begin + _seconds(table)
    for group in torn:
        rows = [int(row) for row in np.flatnonzero(number == group)]
        for row in rows:
            for other in rows:
                if (
                    row < other
                    and "" not in (given[row], given[other])
                    and given[row] != given[other]
                    and _overlap(begin, end, row, other)
                ):
                    said = [f"{named(each)} ({_span(begin[each], end[each])}, {given[each]})" for each in (row, other)]
                    raise UserError(
                        f"{said[0]} and {said[1]} overlap in time: one would be tested on what the other trains. "
                        "Give them one subset, or windows that do not overlap."
                    )
    # Windows of two subsets that only a third, of no subset, joins: `overlapping` keeps that one with the first.
    raise UserError(
        f"Windows of {table['path'].to_numpy()[number == torn.iloc[0]][0]} in two subsets are joined by windows that overlap both: "
        "give these a subset, or cut them shorter."
    )


def _overlap(begin: np.ndarray, end: np.ndarray, row: int, other: int) -> bool:
    return bool(begin[row] < end[other] - TOUCHING and begin[other] < end[row] - TOUCHING)


def _span(begin: float, end: float) -> str:
    return f"{begin:g} s to {'the end' if np.isinf(end) else f'{end:g} s'}"
