"""The columns of a manifest that say which part of a long recording an utterance is, in the spellings of other programs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speechforget.data.tables.delimited import first_line
from speechforget.errors import UserError

STARTS = {
    "start",
    "begin",
    "beginning",
    "onset",
    "tmin",
    "xmin",
    "t0",
    "t_start",
    "start_t",
    "start_time",
    "begin_time",
    "time_start",
    "starttime",
    "segment_start",
}
ENDS = {
    "end",
    "stop",
    "tmax",
    "xmax",
    "t1",
    "t_end",
    "end_t",
    "end_time",
    "stop_time",
    "time_end",
    "endtime",
    "segment_end",
}
LENGTHS = {"seconds", "duration", "dur"}
UNCLEAR = {"length", "len"}  # in what?
ROLES = {"start": STARTS, "end": ENDS, "length": LENGTHS | UNCLEAR, "offset": {"offset"}}
UNITS: dict[str, float | None] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(
        ("sample", "samples", "frame", "frames", "us", "ns", "hop", "hops", "idx", "index", "min", "minutes"), None
    ),
}
ROUNDING = 0.0105  # seconds; times are often written with two decimals


def windows(table: pd.DataFrame, manifest: Path, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table with the columns start and seconds as numbers (seconds: NaN is "to the end"), where it names windows, and what there is to say.

    table: of text, its index the manifest's lines; its column path is relative to `root`. Understands start or begin with end, stop, seconds or
    duration, and offset with duration, in seconds, or in milliseconds where a name ends so. A duration without a start is of the whole file, and is
    compared with it. Raises UserError where names contradict each other or leave the unit open, and for the line whose times make no window.
    """
    name = f"The manifest {manifest}"
    found = _roles(name, list(table.columns))
    said = [
        f"'{column}' is taken for the {role} of a window"
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
        _refuse(name, table, by_end <= 0, "a window that ends before it begins, or is empty")
        _refuse(
            name,
            table,
            (by_end - length).abs() > ROUNDING,
            "an end that contradicts its start and its length: keep one of end and length",
        )
        length = by_end.where(by_end.notna(), length)
    _refuse(name, table, length <= 0, "a window of no length")
    table = table.drop(columns=[column for column, _ in found.values()])
    if "start" in found:
        table["start"] = start
    if found:
        table["seconds"] = length
    _check_ends(name, table)
    return table, said


def _roles(name: str, columns: list[str]) -> dict[str, tuple[str, float]]:
    """start, end and length -> the column that says it, and what its unit is in seconds."""
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
                f"{name} has the column '{column}', which counts no seconds: write start and seconds, in seconds, or take it out."
            )
        if unit is None or (word in UNCLEAR and not named):
            unclear.append(column)
        else:
            found[role].append((column, unit))
    if unclear and any(found[role] for role in ("start", "end", "offset")) and not (found["length"] or found["end"]):
        raise UserError(
            f"{name} has the column '{unclear[0]}', whose unit is not seconds or not known: name it seconds, and write seconds."
        )
    if found["offset"]:
        onset = bool(found["start"]) and "onset" in found["start"][0][0].casefold()
        if not onset and not (found["length"] or found["end"]):
            raise UserError(f"{name} has the column 'offset', which may be a start or an end: name it start or end.")
        found["end" if onset else "start"] += found["offset"]
    for role in ("start", "end", "length"):
        if len(found[role]) > 1:
            first, second = found[role][0][0], found[role][1][0]
            raise UserError(
                f"{name} has the columns '{first}' and '{second}', which both say a window's {role}: keep one of them."
            )
    return {role: found[role][0] for role in ("start", "end", "length") if found[role]}


def _unit(word: str) -> tuple[str, float | None, bool]:
    """A column's name without its unit, the unit in seconds (None where it is no time), and whether the name says it."""
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
    """Seconds; NaN where nothing is written."""
    numbers = pd.to_numeric(values.str.strip(), errors="coerce").astype(float) * factor
    wrong = (numbers.isna() & ~values.str.strip().str.lower().isin({"", "nan"})) | (numbers < 0) | np.isinf(numbers)
    if wrong.any():
        line = first_line(wrong)
        raise UserError(
            f"{name} has the {values.name!s} '{values[line]}' in line {line}, which is no time in seconds: write a number."
        )
    return numbers


def _refuse(name: str, table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        line = first_line(wrong)
        raise UserError(f"{name} has {what}, in line {line} ({table.loc[line, 'path']!s}): correct it.")


def _lengths_of_files(
    name: str, table: pd.DataFrame, column: str, factor: float, root: Path
) -> tuple[pd.DataFrame, list[str]]:
    """A column such as duration stays an attribute where it says how long each file is. Raises UserError where it says something else."""
    said = pd.to_numeric(table[column], errors="coerce") * factor
    if said.isna().all():
        return table, []
    for line, path, seconds in zip(table.index, table["path"], said, strict=True):
        try:
            lasts = soundfile.info(root / path).duration
        except (OSError, soundfile.LibsndfileError, TypeError):  # decoding names it
            continue
        if abs(lasts - seconds) > max(0.1, 0.02 * lasts):
            raise UserError(
                f"{name} has the {column} {table.loc[line, column]} in line {line}, and {path} lasts {lasts:.3f} s: name the column seconds if "
                "it says how much of a file's beginning is the utterance, add start if that lies elsewhere, or correct it."
            )
    return table, [f"'{column}' is taken for the length of each file"]


def _check_ends(name: str, table: pd.DataFrame) -> None:
    """Raises UserError where a window without an end reaches over others of its file: it would be heard to hold their sound, too."""
    if "start" not in table:
        return
    ordered = table.sort_values(["path", "start"], kind="stable")
    endless = ordered["seconds"].isna().astype(int)
    over = endless.groupby(ordered["path"]).cumsum() > endless  # one before it has no end
    if over.any():
        line = first_line(over)
        raise UserError(
            f"{name} has a window without an end before the one in line {line} ({table.loc[line, 'path']!s}), over which it reaches: "
            "give every window an end, or its length in a column seconds."
        )
