"""Tables of many runs for the terminal, as Markdown, CSV and LaTeX, in the layout of the paper plus the oracle.

The paper is "Speech Unlearning" (Interspeech 2025), Tables 1 and 2. pandas writes Markdown and CSV. LaTeX is written
here, because pandas cannot: titles of blocks span all columns, long names are stacked, and a table fits the page.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from speechforget.report.columns import COLUMNS, Column, fit, left_out, number, shown, width_of
from speechforget.report.table import Row, Statistic, Table

if TYPE_CHECKING:
    from rich.console import Console

LATEX_COLUMNS = 8  # columns of numbers in a LaTeX table, without n
HEADING_WIDTH, NAME_WIDTH, TITLE_WIDTH = 12, 36, 80  # letters per line of LaTeX
NAME_ROOM = 24  # letters kept for a row's name in a terminal, if the name is that long
LATEX_BEGIN, LATEX_END = ("\\begin{table}", "\\centering"), ("\\end{table}",)
LATEX_FIT = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"


def _spread(mean: float, std: float, factor: float, decimals: int, sign: bool = False) -> str:
    text = number(mean, factor, decimals, sign=sign)
    return text if math.isnan(std) else f"{text} ± {number(std, factor, decimals)}"


def _cell(statistic: Statistic | None, column: Column, table: Table, runs: int, gap: bool) -> str:
    if statistic is None or not statistic.n:
        return "no holdout" if column.metric.startswith("membership") and not table.holdout else "–"
    mean, std, n = (
        (statistic.gap_mean, statistic.gap_std, statistic.gap_n)
        if gap
        else (statistic.mean, statistic.std, statistic.n)
    )
    fewer = f" (n {n})" if n < runs else ""  # the other runs have no such number
    return _spread(mean, std, column.factor, column.decimals, sign=gap) + fewer if n else "–"


def columns_of(table: Table) -> list[Column]:
    """List the columns of a table (see `columns.shown`)."""
    measured = {
        metric for block in table.blocks for row in block.rows for metric, found in row.metrics.items() if found.n
    }
    return shown(COLUMNS, measured)


def headings(table: Table, gap: bool) -> list[str]:
    """List the headings of the columns after the row's name."""
    return [
        title for column in columns_of(table) for title in ([column.heading, "gap"] if gap else [column.heading])
    ] + ["n"]


def cells(row: Row, table: Table, gap: bool) -> list[str]:
    """List the texts of a row, in the order of `headings`."""
    texts: list[str] = []
    if row.artefact == "oracle" and not table.oracle:
        return [text for _ in columns_of(table) for text in (["no oracle", ""] if gap else ["no oracle"])] + ["0"]
    for column in columns_of(table):
        statistic = row.metrics.get(column.metric)
        texts.append(_cell(statistic, column, table, row.runs, False))
        if gap:
            texts.append("" if row.artefact == "oracle" else _cell(statistic, column, table, row.runs, True))
    return [*texts, str(row.runs)]


def name(row: Row) -> str:
    """Name the row, with `*` if 0.5 is outside the oracle's interval, and with the flags of the model in brackets."""
    shown = row.name.capitalize() if row.artefact != "unlearned" else row.name
    flags = [
        flag if count == row.runs else f"{flag} in {count} of {row.runs}" for flag, count in sorted(row.flags.items())
    ]
    return " ".join([shown, *(["*"] if row.marked else []), *([f"[{'; '.join(flags)}]"] if flags else [])])


def markdown(tables: Sequence[Table], gap: bool = False) -> str:
    """Write one Markdown table per `Table`; a bold row is the title of a block."""
    parts = []
    for table in tables:
        titles = ["", *headings(table, gap)]
        sides = ["left", *["right"] * (len(titles) - 1)]
        lines = []
        for block in table.blocks:
            lines.append([f"**{_escape(block.title)}**", *[""] * (len(titles) - 1)])
            lines += [[_escape(name(row)), *cells(row, table, gap)] for row in block.rows]
        grid = pd.DataFrame(lines, columns=titles).to_markdown(index=False, disable_numparse=True, colalign=sides)
        parts.append("\n".join([f"### {table.title}", "", grid, "", *(f"{_escape(note)}  " for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    for character in ("\\", "*", "_", "|"):
        text = text.replace(character, f"\\{character}")
    return text


def latex(tables: Sequence[Table], gap: bool = False) -> str:
    r"""Write LaTeX tables that fit the page; they need \usepackage{booktabs,graphicx}.

    There is one per `Table`, or several with at most `LATEX_COLUMNS` columns of numbers. Long texts are stacked on
    several lines; a table that is still too wide is scaled down.
    """
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    # A value and its gap stay in one table.
    step = LATEX_COLUMNS - LATEX_COLUMNS % (2 if gap else 1)
    for table in tables:
        titles = headings(table, gap)
        pieces = [range(start, min(start + step, len(titles) - 1)) for start in range(0, len(titles) - 1, step)]
        for part, piece in enumerate(pieces, start=1):
            of = f" (part {part} of {len(pieces)})" if len(pieces) > 1 else ""
            caption = f"{_tex(table.title + of)}. {_tex(' '.join(table.notes)) if part == 1 else ''}".rstrip()
            tabular = _tabular(table, gap, [*piece, len(titles) - 1])
            parts.append("\n".join([*LATEX_BEGIN, f"\\caption{{{caption}}}", LATEX_FIT, *tabular, *LATEX_END]))
    return "\n\n".join(parts) + "\n"


def _tabular(table: Table, gap: bool, chosen: Sequence[int]) -> Iterator[str]:
    titles = headings(table, gap)
    yield f"\\begin{{tabular}}{{l{'r' * len(chosen)}}}"
    yield "\\toprule"
    yield _ampersands(["", *(_stacked(titles[index], HEADING_WIDTH, "r") for index in chosen)])
    for block in table.blocks:
        yield "\\midrule"
        yield f"\\multicolumn{{{len(chosen) + 1}}}{{l}}{{\\emph{{{_stacked(block.title, TITLE_WIDTH, 'l')}}}}} \\\\"
        for row in block.rows:
            texts = cells(row, table, gap)
            yield _ampersands([_stacked(name(row), NAME_WIDTH, "l"), *(_tex(texts[index]) for index in chosen)])
    yield "\\bottomrule"
    yield "\\end{tabular}}"


def _stacked(text: str, width: int, side: str) -> str:
    """Break the text into lines of at most `width` letters."""
    # After a line break LaTeX would read [ or * as an option; {} prevents that.
    lines = [f"{{}}{line}" if line[0] in "[*" else line for line in map(_tex, textwrap.wrap(text, width))]
    stacked = " \\\\ ".join(lines)
    return f"\\shortstack[{side}]{{{stacked}}}" if len(lines) > 1 else stacked


def _ampersands(texts: Sequence[str]) -> str:
    return " & ".join(texts) + " \\\\"


def _tex(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return (
        text.replace("±", "$\\pm$")
        .replace("–", "--")
        .replace("~", "\\textasciitilde ")
        .replace("^", "\\textasciicircum ")
    )


def comma_separated(tables: Sequence[Table]) -> str:
    """Write CSV: one line per table, block, row and metric, with every metric unrounded.

    Accuracies are in [0, 1]; gaps are signed, value minus the oracle's value. flags: what is wrong with the model,
    and in how many of the runs. notes: the notes of the table, repeated on each of its lines.
    """
    lines = [
        {
            "dataset": table.dataset,
            "label": table.label,
            "model": table.model,
            "holdout": table.holdout,
            "oracle": table.oracle,
            "setting": table.setting,
            "block": block.title,
            "row": row.name,
            "artefact": row.artefact,
            "metric": metric,
            **asdict(statistic),
            "flags": "; ".join(f"{flag} ({count} of {row.runs})" for flag, count in sorted(row.flags.items())),
            "notes": " ".join(table.notes),
        }
        for table in tables
        for block in table.blocks
        for row in block.rows
        for metric, statistic in row.metrics.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def print_tables(tables: Sequence[Table], gap: bool = False, console: Console | None = None) -> None:
    """Print the tables, and name the columns that do not fit the terminal; without a terminal print plain text."""
    from rich.console import Console
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(highlight=False, width=200 if gap else 140)
    for table in tables:
        console.print(Text(f"{table.title}\n", style="bold"))
        dropped = _print_table(table, gap, console)
        narrow = [left_out(dropped, "All columns are in report.md and report.csv")] if dropped else []
        for note in [*narrow, *table.notes]:
            console.print(Text(note, style="dim"))
        console.print()


def _print_table(table: Table, gap: bool, console: Console) -> list[str]:
    """Print the columns that fit, the same in each block; return the headings of the others."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    titles, rows = headings(table, gap), [row for block in table.blocks for row in block.rows]
    texts = [cells(row, table, gap) for row in rows]
    ranks = [rank for column in columns_of(table) for rank in [column.rank] * (2 if gap else 1)]
    longest = max(map(len, map(name, rows)))
    room = min(longest, NAME_ROOM)
    kept = fit(titles, texts, [*ranks, -1], console.width, room)
    room = min(longest, max(room, console.width - width_of(kept)))
    lines = iter(texts)
    for block in table.blocks:
        grid = Grid(title=Text(block.title), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("", width=room)
        for index, letters in kept.items():
            style = "dim" if titles[index] == "gap" else None
            grid.add_column(titles[index], justify="right", style=style, width=letters)
        for row in block.rows:
            line, style = next(lines), "bold" if row.artefact == "oracle" else None
            grid.add_row(Text(name(row)), *(line[index] for index in kept), style=style)
        console.print(grid)
    return [title for index, title in enumerate(titles) if index not in kept and title != "gap"]
