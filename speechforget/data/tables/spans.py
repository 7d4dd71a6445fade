"""Columns of a manifest that cut utterances out of long recordings, under the names that other programs use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speechforget.data.tables.delimited import first_line
from speechforget.errors import UserError

LENGTHS = {"seconds", "duration", "dur"}
UNCLEAR = {"length", "len"}  # in an unknown unit
_STARTS = (
    "start begin beginning onset tmin xmin t0 t_start start_t start_time begin_time time_start starttime segment_start"
)
_ENDS = "end stop tmax xmax t1 t_end end_t end_time stop_time time_end endtime segment_end"
ROLES = {
    "start": set(_STARTS.split()),
    "end": set(_ENDS.split()),
    "length": LENGTHS | UNCLEAR,
    "offset": {"offset"},
}
UNITS: dict[str, float | None] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(
        ("sample", "samples", "frame", "frames", "us", "ns", "hop", "hops", "idx", "index", "min", "minutes"), None
    ),
}
ROUNDING = 0.0105  # seconds: times are often rounded to two decimals


def parse_windows(table: pd.DataFrame, manifest: Path, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """Replace a manifest's time columns by start and seconds, both numbers in seconds, and return notes on how.

    table: text, indexed by line number; its column path is relative to `root`. seconds: NaN means "to the end".
    Accepts start or begin with end, stop, seconds or duration, and offset with duration. Times are in seconds, or in
    milliseconds where the column name ends so. A duration without a start is compared with the length of the file.
    Raises UserError where column names contradict each other or leave the unit open, and, with the line, for times that
    form no window.
    """
    name = f"The manifest {manifest}"
    found = _roles(name, list(table.columns))
    notes = [
        f"column '{column}' is read as the {role} of a window"
        for role, (column, _) in found.items()
        if column not in ("start", "end", "seconds")
    ]
    if set(found) == {"length"} and found["length"][0].casefold() != "seconds":
        return _lengths_of_files(name, table, *found["length"], root)
    numbers = {role: _numbers(name, table[column], factor) for role, (column, factor) in found.items()}
    start = numbers.get("start", pd.Series(0.0, index=table.index)).fillna(0.0)
    length = numbers.get("length", pd.Series(np.nan, index=table.index))
    if "end" in numbers:
        by_end = numbers["end"] - start
        _refuse(name, table, by_end <= 0, "the window ends at or before its start: correct its times")
        unequal = (by_end - length).abs() > ROUNDING
        _refuse(name, table, unequal, "the end contradicts the start and the length: keep one of end and length")
        length = by_end.where(by_end.notna(), length)
    _refuse(name, table, length <= 0, "the window has no length: correct it")
    table = table.drop(columns=[column for column, _ in found.values()])
    if "start" in found:
        table["start"] = start
    if found:
        table["seconds"] = length
    _check_ends(name, table)
    return table, notes


def _roles(name: str, columns: list[str]) -> dict[str, tuple[str, float]]:
    """Map start, end and length to the column that gives it and to that column's unit in seconds."""
    found: dict[str, list[tuple[str, float]]] = {"start": [], "end": [], "length": [], "offset": []}
    unclear: list[str] = []
    for column in columns:
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)  # StartSec
        word, unit, named = _unit(re.sub(r"[^a-z0-9]+", "_", apart.casefold()).strip("_"))
        role = next((role for role, words in ROLES.items() if word in words), None)
        if role is None:
            continue
        if unit is None and role != "length":
            raise UserError(
                f"{name}: the column '{column}' is not in seconds or milliseconds: write the columns start and seconds "
                "(both in seconds) instead, or delete it."
            )
        if unit is None or (word in UNCLEAR and not named):
            unclear.append(column)
        else:
            found[role].append((column, unit))
    if unclear and any(found[role] for role in ("start", "end", "offset")) and not (found["length"] or found["end"]):
        raise UserError(
            f"{name}: the unit of the column '{unclear[0]}' is unknown, or not seconds: write seconds, and rename the "
            "column to 'seconds'."
        )
    if found["offset"]:
        onset = bool(found["start"]) and "onset" in found["start"][0][0].casefold()
        if not onset and not (found["length"] or found["end"]):
            raise UserError(f"{name}: the column 'offset' may be a start or an end: rename it to start or end.")
        found["end" if onset else "start"] += found["offset"]
    for role in ("start", "end", "length"):
        if len(found[role]) > 1:
            first, second = found[role][0][0], found[role][1][0]
            raise UserError(
                f"{name}: the columns '{first}' and '{second}' both give the {role} of a window: keep one of them."
            )
    return {role: found[role][0] for role in ("start", "end", "length") if found[role]}


def _unit(word: str) -> tuple[str, float | None, bool]:
    """Split a column name into its word, its unit in seconds (None: no unit of time), and whether it names the unit."""
    if word in LENGTHS:
        return word, 1.0, True
    head, _, tail = word.rpartition("_")
    if head and tail in UNITS:
        return head.removesuffix("_in"), UNITS[tail], True
    first, _, rest = word.partition("_")
    if rest and UNITS.get(first, 1.0) is None:
        return rest, None, True
    return word, 1.0, False


def _numbers(name: str, values: pd.Series, factor: float) -> pd.Series:
    """Parse times in seconds; NaN where the field is empty."""
    numbers = pd.to_numeric(values.str.strip(), errors="coerce").astype(float) * factor
    wrong = (numbers.isna() & ~values.str.strip().str.lower().isin({"", "nan"})) | (numbers < 0) | np.isinf(numbers)
    if wrong.any():
        line = first_line(wrong)
        raise UserError(
            f"{name}, line {line}: {values.name!s} is '{values[line]}', which is not a time: write a number like 1.5."
        )
    return numbers


def _refuse(name: str, table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        line = first_line(wrong)
        raise UserError(f"{name}, line {line} ({table.loc[line, 'path']!s}): {what}.")


def _lengths_of_files(
    name: str, table: pd.DataFrame, column: str, factor: float, root: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Keep a column such as duration as an attribute if it gives the length of each file. Raises UserError if not."""
    lengths = pd.to_numeric(table[column], errors="coerce") * factor
    if lengths.isna().all():
        return table, []
    for line, path, seconds in zip(table.index, table["path"], lengths, strict=True):
        try:
            lasts = soundfile.info(root / path).duration
        except (OSError, soundfile.LibsndfileError, TypeError):  # decoding reports this file
            continue
        if abs(lasts - seconds) > max(0.1, 0.02 * lasts):
            raise UserError(
                f"{name}, line {line}: {column} is {table.loc[line, column]}, but {path} lasts {lasts:.3f} s: correct "
                "it; or, if the utterance is only a part of the file, rename the column to 'seconds' and add 'start'."
            )
    return table, [f"column '{column}' is read as the length of each file"]


def _check_ends(name: str, table: pd.DataFrame) -> None:
    """Raise UserError for a window without an end before another of its file: it would contain that one's sound."""
    if "start" not in table:
        return
    ordered = table.sort_values(["path", "start"], kind="stable")
    endless = ordered["seconds"].isna().astype(int)
    over = endless.groupby(ordered["path"]).cumsum() > endless  # an earlier window has no end
    if over.any():
        line = first_line(over)
        raise UserError(
            f"{name}, line {line} ({table.loc[line, 'path']!s}): an earlier window of this file has no end, so it "
            "contains this one: give every window an end, or its length in a column seconds."
        )
