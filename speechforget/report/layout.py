"""The tables of the report as terminal table, Markdown, LaTeX and CSV, laid out as the paper's Tables 1 and 2 with the oracle added."""

from __future__ import annotations

import csv
import io
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from speechforget.report.console import number
from speechforget.report.summary import Row, Statistic, Table
from speechforget.report.width import fitting, left_out, taken

if TYPE_CHECKING:
    from rich.console import Console

# metric, heading, factor, decimals
COLUMNS = (
    ("accuracy_test", "test %", 100, 1),
    ("accuracy_test_forgotten", "test of forgotten classes %", 100, 1),
    ("accuracy_forget", "forget %", 100, 1),
    ("accuracy_retain", "retain %", 100, 1),
    ("membership_nonmember_share", "judged non-member %", 100, 1),
    ("membership_attack_accuracy", "that attack right %", 100, 1),
    ("membership_auc", "attack AUC", 1, 3),
    ("seconds", "seconds", 1, 1),
)
# What a narrow terminal keeps longest comes first.
NARROW = (
    "accuracy_forget",
    "accuracy_test",
    "accuracy_retain",
    "membership_auc",
    "accuracy_test_forgotten",
    "membership_nonmember_share",
    "seconds",
)
TOGETHER = {
    "membership_attack_accuracy": "membership_nonmember_share"
}  # the first says what the second is worth: shown with it, or not at all
LATEX_COLUMNS = 8  # of numbers in a table, beside n
HEADING_WIDTH, NAME_WIDTH, TITLE_WIDTH = 12, 36, 80  # letters in a line of LaTeX
NAME_ROOM = 24  # letters that a row's name has at least in a terminal, where it is as long
LATEX_BEGIN, LATEX_END = ("\\begin{table}", "\\centering"), ("\\end{table}",)
LATEX_FIT = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
NUMBERS = ("mean", "std", "n", "gap_mean", "gap_std", "gap_n")


def _spread(mean: float, std: float, factor: float, decimals: int, sign: bool = False) -> str:
    text = number(mean, factor, decimals, sign=sign)
    return text if math.isnan(std) else f"{text} ± {number(std, factor, decimals)}"


def _cell(statistic: Statistic | None, column: tuple[str, str, float, int], table: Table, runs: int, gap: bool) -> str:
    metric, _, factor, decimals = column
    if statistic is None or not statistic.n:
        return "no holdout" if metric.startswith("membership") and not table.holdout else "–"
    mean, std, n = (
        (statistic.gap_mean, statistic.gap_std, statistic.gap_n)
        if gap
        else (statistic.mean, statistic.std, statistic.n)
    )
    fewer = f" (n {n})" if n < runs else ""  # of the others the number was withheld
    return _spread(mean, std, factor, decimals, sign=gap) + fewer if n else "–"


def headings(gap: bool) -> list[str]:
    """The column titles after the row's name."""
    return [title for _, heading, _, _ in COLUMNS for title in ([heading, "gap"] if gap else [heading])] + ["n"]


def cells(row: Row, table: Table, gap: bool) -> list[str]:
    """The row's texts, in the order of `headings`."""
    texts: list[str] = []
    if row.artefact == "oracle" and not table.oracle:
        return [text for _ in COLUMNS for text in (["no oracle", ""] if gap else ["no oracle"])] + ["0"]
    for column in COLUMNS:
        statistic = row.metrics.get(column[0])
        texts.append(_cell(statistic, column, table, row.runs, False))
        if gap:
            texts.append("" if row.artefact == "oracle" else _cell(statistic, column, table, row.runs, True))
    return [*texts, str(row.runs)]


def name(row: Row) -> str:
    """The row's name, marked where 0.5 lies outside the oracle's interval, with what is wrong with the model at first sight."""
    shown = row.name.capitalize() if row.artefact != "unlearned" else row.name
    flags = [
        flag if count == row.runs else f"{flag} in {count} of {row.runs}" for flag, count in sorted(row.flags.items())
    ]
    return " ".join([shown, *(["*"] if row.marked else []), *([f"[{'; '.join(flags)}]"] if flags else [])])


def markdown(tables: Sequence[Table], gap: bool = False) -> str:
    """One Markdown table per `Table`, its blocks under bold rows."""
    parts = []
    for table in tables:
        titles = ["", *headings(gap)]
        lines = [f"### {table.title}", "", _pipes(titles), "|---|" + "---:|" * (len(titles) - 1)]
        for block in table.blocks:
            lines.append(_pipes([f"**{_escape(block.title)}**", *[""] * (len(titles) - 1)]))
            lines += [_pipes([_escape(name(row)), *cells(row, table, gap)]) for row in block.rows]
        parts.append("\n".join([*lines, "", *(f"{_escape(note)}  " for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _pipes(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escape(text: str) -> str:
    for character in ("\\", "*", "_", "|"):
        text = text.replace(character, f"\\{character}")
    return text


def latex(tables: Sequence[Table], gap: bool = False) -> str:
    r"""LaTeX tables that fit the page; needs \usepackage{booktabs,graphicx}.

    One per `Table`, or several of `LATEX_COLUMNS` columns at most. Long texts are set on several lines; what is still too wide is made smaller.
    """
    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    titles = headings(gap)
    step = LATEX_COLUMNS - LATEX_COLUMNS % (2 if gap else 1)  # a value and its gap stay together
    pieces = [range(start, min(start + step, len(titles) - 1)) for start in range(0, len(titles) - 1, step)]
    for table in tables:
        for part, piece in enumerate(pieces, start=1):
            of = f" (part {part} of {len(pieces)})" if len(pieces) > 1 else ""
            caption = f"{_tex(table.title + of)}. {_tex(' '.join(table.notes)) if part == 1 else ''}".rstrip()
            parts.append(
                "\n".join(
                    [
                        *LATEX_BEGIN,
                        f"\\caption{{{caption}}}",
                        LATEX_FIT,
                        *_tabular(table, gap, [*piece, len(titles) - 1]),
                        *LATEX_END,
                    ]
                )
            )
    return "\n\n".join(parts) + "\n"


def _tabular(table: Table, gap: bool, chosen: Sequence[int]) -> Iterator[str]:
    titles = headings(gap)
    yield f"\\begin{{tabular}}{{l{'r' * len(chosen)}}}"
    yield "\\toprule"
    yield _ampersands(["", *(_stacked(titles[place], HEADING_WIDTH, "r") for place in chosen)])
    for block in table.blocks:
        yield "\\midrule"
        yield f"\\multicolumn{{{len(chosen) + 1}}}{{l}}{{\\emph{{{_stacked(block.title, TITLE_WIDTH, 'l')}}}}} \\\\"
        for row in block.rows:
            texts = cells(row, table, gap)
            yield _ampersands([_stacked(name(row), NAME_WIDTH, "l"), *(_tex(texts[place]) for place in chosen)])
    yield "\\bottomrule"
    yield "\\end{tabular}}"


def _stacked(text: str, width: int, side: str) -> str:
    """The text on as many lines as its width asks for."""
    lines = [
        f"{{}}{line}" if line[0] in "[*" else line for line in map(_tex, textwrap.wrap(text, width))
    ]  # else an option of the line break
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
    """One line per table, block, row and metric (all that were computed), unrounded; accuracies in [0, 1], gaps signed to the oracle.

    flags: what is wrong with the model at first sight, and in how many of the runs. notes: what a reader of the table must know, the same on each
    of its lines.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "dataset",
            "label",
            "model",
            "holdout",
            "oracle",
            "setting",
            "block",
            "row",
            "artefact",
            "metric",
            *NUMBERS,
            "flags",
            "notes",
        ]
    )
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                head = [
                    table.dataset,
                    table.label,
                    table.model,
                    table.holdout,
                    table.oracle,
                    table.setting,
                    block.title,
                    row.name,
                    row.artefact,
                ]
                flags = "; ".join(f"{flag} ({count} of {row.runs})" for flag, count in sorted(row.flags.items()))
                for metric, statistic in row.metrics.items():
                    values = [getattr(statistic, key) for key in NUMBERS]
                    writer.writerow(
                        [
                            *head,
                            metric,
                            *("" if math.isnan(value) else value for value in values),
                            flags,
                            " ".join(table.notes),
                        ]
                    )
    return out.getvalue()


def print_tables(tables: Sequence[Table], gap: bool = False, console: Console | None = None) -> None:
    """The tables in the terminal, without the columns that it is too narrow for, which are named; plain text elsewhere."""
    from rich.console import Console
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(highlight=False, width=200 if gap else 140)
    for table in tables:
        console.print(Text(f"{table.title}\n", style="bold"))
        dropped = _print_table(table, gap, console)
        for note in [*([left_out(dropped, "report.md and report.csv hold them all")] if dropped else []), *table.notes]:
            console.print(Text(note, style="dim"))
        console.print()


def _print_table(table: Table, gap: bool, console: Console) -> list[str]:
    """Prints the columns that fit, the same in each block, and gives the headings of the others."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    titles, rows = headings(gap), [row for block in table.blocks for row in block.rows]
    texts = [cells(row, table, gap) for row in rows]
    ranks = [rank for metric, *_ in COLUMNS for rank in [_rank(metric)] * (2 if gap else 1)]
    longest = max(map(len, map(name, rows)))
    room = min(longest, NAME_ROOM)
    kept = fitting(titles, texts, [*ranks, -1], console.width, room)
    room = min(longest, max(room, console.width - taken(kept)))
    lines = iter(texts)
    for block in table.blocks:
        grid = Grid(title=Text(block.title), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("", width=room)
        for place, letters in kept.items():
            grid.add_column(
                titles[place], justify="right", style="dim" if titles[place] == "gap" else None, width=letters
            )
        for row in block.rows:
            line = next(lines)
            grid.add_row(
                Text(name(row)), *(line[place] for place in kept), style="bold" if row.artefact == "oracle" else None
            )
        console.print(grid)
    return [titles[place] for place in range(len(titles)) if place not in kept and titles[place] != "gap"]


def _rank(metric: str) -> int:
    metric = TOGETHER.get(metric, metric)
    return NARROW.index(metric) if metric in NARROW else len(NARROW)
