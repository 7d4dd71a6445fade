"""Read CSV and TSV tables strictly: every line is one row, or an error names the line."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speechforget.data.tables.text import read_lines, tidy
from speechforget.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FIX = "write a UTF-8 table with column names in its first line"


def read_delimited(path: Path, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a table as text. Return it, indexed by line number, with notes on how it was read.

    column: a name that the first line should hold, in any case. The separator that makes this true is used; otherwise
        tabs for .tsv and commas for other files. Between tabs or bars a quotation mark is an ordinary character,
        unless all column names, or all values of this column, are in quotation marks.
    Spaces around column names are removed. Raises UserError, with the line, where a line is not one row with a field
    for each column.
    """
    name = f"The manifest {path}"
    lines = {number: line for number, line in enumerate(read_lines(path, name, FIX), 1) if line.strip()}
    if not lines:
        raise UserError(f"{name} cannot be read (it is empty): {FIX}.")
    if re.fullmatch("sep=.", lines[min(lines)].strip().lower()) and len(lines) > 1:  # Excel's note of the separator
        del lines[min(lines)]
    first = min(lines)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    separator = _separator(lines[first], usual, column)
    notes = [] if separator == usual else [f"its columns are separated by {SEPARATORS[separator]}"]
    rows = _rows(name, lines, separator, column)
    names = [tidy(field) for field in rows.pop(first)]
    used = [number for number, title in enumerate(names, 1) if title or any(row[number - 1] for row in rows.values())]
    width = max(used, default=0)
    for number, title in enumerate(names[:width], 1):
        if not title:
            raise UserError(
                f"{name}, line {first}: column {number} has no name: name every column, or delete this column."
            )
        if title in names[: number - 1]:
            raise UserError(f"{name}, line {first}: two columns are called '{title}': rename one of them.")
    filled = {number: row[:width] for number, row in rows.items() if any(map(str.strip, row))}
    return pd.DataFrame(list(filled.values()), columns=names[:width], index=list(filled), dtype=str), notes


def first_line(wrong: pd.Series) -> int:
    """Return the number of the first line that a mask over lines marks."""
    return int(wrong.index.to_numpy()[wrong.to_numpy(bool).argmax()])


def _separator(head: str, usual: str, column: str) -> str:
    names = {
        sign: [tidy(field.strip('" ')).casefold() for field in head.split(sign)]
        for sign in (usual, *(SEPARATORS.keys() - {usual}))
    }
    fitting = [sign for sign in names if column in names[sign]]
    return fitting[0] if fitting else max(names, key=lambda sign: len(names[sign]))


def _rows(name: str, lines: dict[int, str], separator: str, column: str) -> dict[int, list[str]]:
    if separator in ",;":
        return _checked(name, {number: _unquoted(name, number, line, separator) for number, line in lines.items()})
    rows = _checked(name, {number: line.split(separator) for number, line in lines.items()})
    head, *body = rows.values()
    index = next((index for index, field in enumerate(head) if tidy(field).casefold() == column), None)
    if _quoted(head) or (index is not None and body and _quoted([row[index] for row in body])):
        return _checked(name, {number: _unquoted(name, number, line, separator) for number, line in lines.items()})
    return rows


def _quoted(fields: Sequence[str]) -> bool:
    return all(len(field.strip()) > 1 and field.strip()[0] == field.strip()[-1] == '"' for field in fields)


def _unquoted(name: str, number: int, line: str, separator: str) -> list[str]:
    """Split one line as the csv module does. A closing quotation mark must end its field, in the same line."""
    if '"' not in line:
        return line.split(separator)
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{name}, line {number}: a quotation mark does not end a field of this line ({error}): put the whole field "
            "into quotation marks, without line breaks, and write each mark inside it twice."
        ) from None
    if any(field[:1].isspace() and field.lstrip().startswith('"') for field in fields):
        raise UserError(f"{name}, line {number}: there is a space before a quotation mark: delete the space.")
    return fields


def _checked(name: str, rows: dict[int, list[str]]) -> dict[int, list[str]]:
    first, width = min(rows), len(next(iter(rows.values())))
    for number, row in rows.items():
        if len(row) != width:
            fields = f"{len(row)} field{'s' * (len(row) != 1)}"
            raise UserError(
                f"{name}, line {number}: the line has {fields}, but line {first} has {width} column names: "
                "give every column one field."
            )
    return rows
