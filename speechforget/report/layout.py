"""The tables of the report as terminal table, Markdown, LaTeX and CSV, laid out as the paper's Tables 1 and 2 with the oracle added."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from speechforget.report.console import number
from speechforget.report.summary import Row, Statistic, Table

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
NUMBERS = ("mean", "std", "n", "gap_mean", "gap_std")


def _spread(mean: float, std: float, factor: float, decimals: int, sign: bool = False) -> str:
    text = number(mean, factor, decimals, sign=sign)
    return text if math.isnan(std) else f"{text} ± {number(std, factor, decimals)}"


def _cell(statistic: Statistic | None, column: tuple[str, str, float, int], holdout: bool, gap: bool) -> str:
    metric, _, factor, decimals = column
    if statistic is None or not statistic.n:
        return "no holdout" if metric.startswith("membership") and not holdout else "–"
    if gap:
        return "–" if math.isnan(statistic.gap_mean) else _spread(statistic.gap_mean, statistic.gap_std, factor, decimals, sign=True)
    return _spread(statistic.mean, statistic.std, factor, decimals)


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
        fewer = f" (n {statistic.n})" if statistic is not None and 0 < statistic.n < row.runs else ""  # of the others the number was withheld
        texts.append(_cell(statistic, column, table.holdout, False) + fewer)
        if gap:
            texts.append("" if row.artefact == "oracle" else _cell(statistic, column, table.holdout, True))
    return [*texts, str(row.runs)]


def name(row: Row) -> str:
    """The row's name, marked where 0.5 lies outside the oracle's interval."""
    shown = row.name.capitalize() if row.artefact != "unlearned" else row.name
    return f"{shown} *" if row.marked else shown


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
    r"""One LaTeX table per `Table`; needs \usepackage{booktabs}."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        titles = headings(gap)
        width = len(titles) + 1
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{_tex(table.title)}. {_tex(' '.join(table.notes))}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * len(titles)}}}", "\\toprule", _ampersands(["", *titles])]
        for block in table.blocks:
            lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_tex(block.title)}}}}} \\\\"]
            lines += [_ampersands([name(row), *cells(row, table, gap)]) for row in block.rows]
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _ampersands(texts: Sequence[str]) -> str:
    return " & ".join(map(_tex, texts)) + " \\\\"


def _tex(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", "$\\pm$").replace("–", "--").replace("~", "\\textasciitilde ").replace("^", "\\textasciicircum ")


def comma_separated(tables: Sequence[Table]) -> str:
    """One line per table, block, row and metric (all that were computed), unrounded; accuracies in [0, 1], gaps signed to the oracle.

    notes: what a reader of the table must know, the same on each of its lines.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "label", "model", "holdout", "oracle", "setting", "block", "row", "artefact", "metric", *NUMBERS, "notes"])
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                head = [table.dataset, table.label, table.model, table.holdout, table.oracle, table.setting, block.title, row.name, row.artefact]
                for metric, statistic in row.metrics.items():
                    values = [getattr(statistic, key) for key in NUMBERS]
                    writer.writerow([*head, metric, *("" if math.isnan(value) else value for value in values), " ".join(table.notes)])
    return out.getvalue()


def print_tables(tables: Sequence[Table], gap: bool = False) -> None:
    """The tables in the terminal; plain text elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200 if gap else 140)
    for table in tables:
        console.print(Text(f"{table.title}\n", style="bold"))
        for block in table.blocks:
            texts = [cells(row, table, gap) for row in block.rows]
            grid = Grid(title=Text(block.title), title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
            grid.add_column("", no_wrap=True)
            for heading, column in zip(headings(gap), zip(*texts, strict=True), strict=True):
                grid.add_column(heading, justify="right", style="dim" if heading == "gap" else None, min_width=max(map(len, column)))
            for row, line in zip(block.rows, texts, strict=True):
                grid.add_row(Text(name(row)), *line, style="bold" if row.artefact == "oracle" else None)
            console.print(grid)
        for note in table.notes:
            console.print(Text(note, style="dim"))
        console.print()
