"""The tables of a page: rows that a reader sorts, filters and pins, and the same rows as CSV files of stable names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speechforget.page.published import NOTE, published
from speechforget.record.hidden import hidden_request
from speechforget.report.charts.names import Names
from speechforget.report.columns import COLUMNS, Column, number
from speechforget.report.layout import columns_of, comma_separated, name
from speechforget.report.table import Block, Row, Statistic, Table


@dataclass(frozen=True)
class Cell:
    """Hold one number of a row. sort: by which rows are sorted, None for a missing one. style: within or outside."""

    text: str
    band: str = ""
    sort: float | None = None
    style: str = ""


@dataclass(frozen=True)
class Line:
    """Hold one row. style: reference (original, oracle), published, or empty. results: the keys of what it averages."""

    identity: str
    name: str
    style: str
    cells: list[Cell]
    runs: str
    results: list[str] = field(default_factory=list)
    command: str = ""


@dataclass(frozen=True)
class Grid:
    """Hold one table: a kind of request on one corpus, label and model. csv: path of its file, from the page."""

    identity: str
    title: str
    caption: str
    csv: str
    columns: list[Column]
    references: list[Line]
    lines: list[Line]
    notes: list[str]


def kind_of(block: Block) -> str:
    """Return the kind of request of a block."""
    return block.title.split()[0]


def grids(tables: Sequence[Table], entries: Mapping[str, Mapping[str, Any]]) -> list[Grid]:
    """Make the tables. entries: folder of a result -> its entry in the record.

    All have the same columns, since a reader compares rows of two tables: an optional column where any table has it.
    """
    measured = {column for table in tables for column in columns_of(table)}
    columns = [column for column in COLUMNS if column in measured]
    found: list[Grid] = []
    for table in tables:
        for block in table.blocks:
            found.append(_grid(f"t{len(found) + 1}", table, block, columns, entries))
    return found


def without_names(tables: Sequence[Table], names: Names) -> list[Table]:
    """Return the tables with hashes for the requests in titles of blocks that may name people, unless ids are open."""
    if names.open_ids:
        return list(tables)
    return [
        replace(table, blocks=[replace(each, title=_hidden(each.title, table.label, names)) for each in table.blocks])
        for table in tables
    ]


def _hidden(title: str, label: str, names: Names) -> str:
    kind, colon, requests = title.partition(": ")
    hidden = [hidden_request(request, label, names.salt) for request in requests.split(", ")]
    return f"{kind}{colon}{', '.join(hidden)}"


def _grid(
    identity: str, table: Table, block: Block, columns: list[Column], entries: Mapping[str, Mapping[str, Any]]
) -> Grid:
    references: list[Line] = []
    lines: list[Line] = []
    notes = list(table.notes)
    for place, row in enumerate(block.rows, 1):
        line = _line(f"{identity}r{place}", row, columns, entries)
        (lines if row.artefact == "unlearned" else references).append(line)
        method = row.name.split(" (")[0].lower()
        if paper := published(table.dataset, table.label, kind_of(block), method):
            number_of, values = paper
            shown = [_paper(column, values.get(column.metric)) for column in columns]
            said = Line(f"{line.identity}p", f"{method}, published", "published", shown, "")
            (lines if row.artefact == "unlearned" else references).append(said)
            notes.append(NOTE.format(table=number_of))
    path = slice_name(table, kind_of(block))
    return Grid(identity, table.title, block.title, path, columns, references, lines, list(dict.fromkeys(notes)))


def _line(identity: str, row: Row, columns: Sequence[Column], entries: Mapping[str, Mapping[str, Any]]) -> Line:
    own = [entries[folder] for folder in row.folders if folder in entries]
    style = "" if row.artefact == "unlearned" else "reference"
    cells = [_cell(row.metrics.get(column.metric), column) for column in columns]
    command = str(own[0].get("command") or "") if own else ""
    return Line(identity, name(row), style, cells, str(row.runs), [str(entry["key"]) for entry in own], command)


def _cell(statistic: Statistic | None, column: Column) -> Cell:
    if statistic is None or not statistic.n:
        return Cell("–")
    factor, decimals = column.factor, column.decimals
    text = number(statistic.mean, factor, decimals)
    if not math.isnan(statistic.std):
        text += f" ± {number(statistic.std, factor, decimals)}"
    if math.isnan(statistic.band_low):
        return Cell(text, "", statistic.mean)
    low, high = (number(end, factor, decimals) for end in (statistic.band_low, statistic.band_high))
    style = "within" if statistic.within else "outside"
    return Cell(text, f"{low} to {high}", statistic.mean, style)


def _paper(column: Column, value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(number(value, column.factor, column.decimals), "", value)


def slice_name(table: Table, kind: str) -> str:
    """Return the path of the CSV file of a corpus, a label and a kind of request, from the page."""
    words = [re.sub(r"[^\w.-]+", "-", word) for word in (table.dataset, table.label, kind)]
    return f"report/{'_'.join(words)}.csv"


def slices(tables: Sequence[Table]) -> Iterator[tuple[str, str]]:
    """Yield path and text of each CSV file: all rows of one corpus, label and kind of request, whatever the model."""
    parts: dict[str, list[Table]] = {}
    for table in tables:
        for kind in dict.fromkeys(kind_of(block) for block in table.blocks):
            own = [block for block in table.blocks if kind_of(block) == kind]
            parts.setdefault(slice_name(table, kind), []).append(replace(table, blocks=own))
    for path, own_tables in parts.items():
        yield path, comma_separated(own_tables)
