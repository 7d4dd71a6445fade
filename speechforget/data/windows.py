"""Find utterances that overlap in time as windows of one file; they must share a subset and a request."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from speechforget.errors import UserError

TOUCHING = 0.001  # seconds: a shorter overlap is rounding


def overlapping(table: pd.DataFrame) -> pd.Series:
    """Return a number for each row, equal for windows of a file that overlap, directly or through other windows."""
    if "path" not in table or not table["path"].duplicated().any():
        return pd.Series(np.arange(len(table)), index=table.index)
    order, first, last = _in_time(table)
    number = np.cumsum(first >= last - TOUCHING)
    return pd.Series(number[np.argsort(order)], index=table.index)


def _in_time(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows sorted by file and start, their starts, and the latest end before each in its file (or -inf)."""
    files, _ = pd.factorize(table["path"])
    begin = _starts(table)
    order = np.lexsort((begin, files))
    ends = pd.Series((begin + _seconds(table))[order])
    before = ends.groupby(files[order]).cummax().groupby(files[order]).shift(fill_value=-np.inf)
    return order, begin[order], before.to_numpy()


def _starts(table: pd.DataFrame) -> np.ndarray:
    """Return the start of each window in seconds; 0 if not given."""
    if "start" not in table:
        return np.zeros(len(table))
    return table["start"].astype(float).fillna(0.0).to_numpy()


def _seconds(table: pd.DataFrame) -> np.ndarray:
    """Return the length of each window in seconds; infinite, to the end of the file, if not given."""
    if "seconds" not in table:
        return np.full(len(table), np.inf)
    return table["seconds"].astype(float).fillna(np.inf).to_numpy()


def check_apart(table: pd.DataFrame, named: Callable[[int], str]) -> None:
    """Raise UserError if overlapping windows are in two subsets; rows with the subset "" are in none.

    named: row number -> its name in the error, such as "line 3".
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
                        f"{said[0]} and {said[1]} overlap in time: the same audio would be in both subsets. "
                        "Give them one subset, or windows that do not overlap."
                    )
    # Only a third window, of no subset, joins the windows of two subsets.
    raise UserError(
        f"Windows of {table['path'].to_numpy()[number == torn.iloc[0]][0]} in two subsets are joined by windows "
        "that overlap both: give these a subset, or cut them shorter."
    )


def _overlap(begin: np.ndarray, end: np.ndarray, row: int, other: int) -> bool:
    return bool(begin[row] < end[other] - TOUCHING and begin[other] < end[row] - TOUCHING)


def _span(begin: float, end: float) -> str:
    return f"{begin:g} s to {'the end' if np.isinf(end) else f'{end:g} s'}"
