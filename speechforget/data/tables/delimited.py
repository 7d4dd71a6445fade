"""Tables that users write by hand or with other programs (CSV, TSV), read strictly: every line is one row, or the line is named."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speechforget.data.tables.text import read_lines, tidy
from speechforget.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FIX = "write a UTF-8 table with a line of column names"


def read_delimited(path: Path, column: str) -> tuple[pd.DataFrame, list[str]]:
    """A table as text, its index the numbers of its lines in the file, and what there is to say of how it was read.

    column: a name that its first line should hold, in whatever case: the separator with which it does is the file's; .tsv means tabs, else commas, if
    that does not tell. Between tabs and bars a quotation mark is a sign like any other, unless all column names, or all of that column, stand in
    quotes. Names lose blanks at their ends. Raises UserError, naming the line, for what is not one row a line with a field for each column.
    """
    name = f"The manifest {path}"
    lines = {number: line for number, line in enumerate(read_lines(path, name, FIX), 1) if line.strip()}
    if not lines:
        raise UserError(f"{name} cannot be read (it is empty): {FIX}.")
    if re.fullmatch("sep=.", lines[min(lines)].strip().lower()) and len(lines) > 1:  # Excel's, of the separator
        del lines[min(lines)]
    first = min(lines)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    separator = _separator(lines[first], usual, column)
    said = [] if separator == usual else [f"its columns are separated by {SEPARATORS[separator]}"]
    rows = _rows(name, lines, separator, column)
    names = [tidy(field) for field in rows.pop(first)]
    width = max(
        (place for place, title in enumerate(names, 1) if title or any(row[place - 1] for row in rows.values())),
        default=0,
    )
    for place, title in enumerate(names[:width], 1):
        if not title:
            raise UserError(
                f"{name} has no name for column {place}, in line {first}: name every column, or take this one out."
            )
        if title in names[: place - 1]:
            raise UserError(f"{name} has two columns '{title}': give one of them another name.")
    filled = {number: row[:width] for number, row in rows.items() if any(map(str.strip, row))}
    return pd.DataFrame(list(filled.values()), columns=names[:width], index=list(filled), dtype=str), said


def first_line(wrong: pd.Series) -> int:
    """The number of the first line that is wrong, of a mask over the lines."""
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
    place = next((place for place, field in enumerate(head) if tidy(field).casefold() == column), None)
    if _quoted(head) or (place is not None and body and _quoted([row[place] for row in body])):
        return _checked(name, {number: _unquoted(name, number, line, separator) for number, line in lines.items()})
    return rows


def _quoted(fields: Sequence[str]) -> bool:
    return all(len(field.strip()) > 1 and field.strip()[0] == field.strip()[-1] == '"' for field in fields)


def _unquoted(name: str, number: int, line: str, separator: str) -> list[str]:
    """One line as the module csv reads it: a field in quotes must end in it, and hold nothing behind its quotes."""
    if '"' not in line:
        return line.split(separator)
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{name} has a quotation mark in line {number} that ends no field there ({error}): put the field into quotes and write marks in it twice."
        ) from None
    if any(field[:1].isspace() and field.lstrip().startswith('"') for field in fields):
        raise UserError(f"{name} has a blank before a quotation mark in line {number}: take it out.")
    return fields


def _checked(name: str, rows: dict[int, list[str]]) -> dict[int, list[str]]:
    width = len(next(iter(rows.values())))
    for number, row in rows.items():
        if len(row) != width:
            raise UserError(
                f"{name} has {len(row)} fields in line {number} and {width} column names in line {min(rows)}: mend the line."
            )
    return rows
