"""The summary of a sequence of requests: its files, and its table for a terminal and for a report."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from speechforget.report.columns import number
from speechforget.report.record import FEWEST_NONMEMBERS
from speechforget.report.sequence_plot import sequence_plot
from speechforget.store import verified, write_json, write_text
from speechforget.store.manifest import DONE

logger = logging.getLogger(__name__)

SUMMARY, TABLE, PLOT = "sequence.json", "sequence.csv", "sequence.png"
MODELS = ("original", "oracle", "unlearned")
NOTE = (
    "Each cell: the value of the unlearned model, and of the oracle of the same requests in brackets. Revival: how far "
    "the gap to the oracle moved toward remembering after later requests, at most; its null is the same number with "
    "another oracle in the place of the unlearned models. Read a revival against its null, not against 0."
)


class Shown(NamedTuple):
    """A figure of the table. factor: 100 for percent."""

    metric: str
    heading: str
    factor: float
    decimals: int


FIGURES = (
    Shown("accuracy_forget", "accuracy %", 100, 1),
    Shown("loss_forget", "loss, nats", 1, 3),
    Shown("membership_auc", "attack AUC", 1, 3),
)


def write_sequence(folder: Path, told: Mapping[str, Any]) -> None:
    """Write sequence.json, sequence.csv (one row per model and figure, unrounded) and sequence.png."""
    write_json(folder / SUMMARY, dict(told))
    write_text(folder / TABLE, rows_csv([told]))
    sequence_plot(told, folder / PLOT)


def read_sequence(folder: Path) -> dict[str, Any]:
    """Read the summary of a finished folder. Raises UserError if its bytes are not those that were written."""
    return dict(json.loads(verified(folder, SUMMARY).read_text(encoding="utf-8")))


def read_sequences(folder: Path) -> list[dict[str, Any]]:
    """Read the summaries of all finished sequences below a folder."""
    found = []
    for path in sorted(folder.rglob(SUMMARY)):
        if (path.parent / DONE).exists():
            found.append({**read_sequence(path.parent), "folder": path.parent.name})
    return found


def rows_csv(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Write the figures of sequences as CSV, one row per model, request and figure."""
    rows = [row for told in summaries for row in _rows(told)]
    out = io.StringIO()
    pd.DataFrame(rows).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()


def _rows(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    about = {name: told[name] for name in ("dataset", "label", "model", "method", "seed", "keep_forget")}
    for part in ("matrix", "drift", "at_once"):
        for cell in told[part]:
            for model in MODELS:
                interval = model == "unlearned"
                yield {
                    **{**about, "part": part, "after": cell["after"], "metric": cell["metric"]},
                    **{"request": cell["request"] if part != "drift" else "", "of": model, "value": cell[model]},
                    **{name: cell[name] if interval else None for name in ("low", "high", "count", "gap")},
                }
    for each in told["revival"]:
        yield {
            **{**about, "part": "revival", "after": each["after"], "metric": each["metric"]},
            **{"request": each["request"], "of": "unlearned", "value": each["value"]},
        }


def lines(told: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table: one row for each state of the model, one column for each request."""
    asked = [f"{place} {each['name'].partition('-after')[0]}" for place, each in enumerate(told["requests"], 1)]
    rows = []
    for figure in FIGURES:
        for after in range(1, len(asked) + 1):
            cells = [_cell(told["matrix"], after, place, figure) for place in range(1, len(asked) + 1)]
            rows.append([f"{figure.heading}, after {after}", *cells])
        cells = [_cell(told["at_once"], len(asked), place, figure) for place in range(1, len(asked) + 1)]
        rows.append([f"{figure.heading}, at once", *cells])
        rows.append([f"{figure.heading}, revival", *(_revival(told, place, figure) for place in _places(told))])
    return ["", *asked], rows


def _places(told: Mapping[str, Any]) -> range:
    return range(1, len(told["requests"]) + 1)


def _cell(cells: Sequence[Mapping[str, Any]], after: int, request: int, figure: Shown) -> str:
    wanted = (after, request, figure.metric)
    found = next((each for each in cells if (each["after"], each["request"], each["metric"]) == wanted), None)
    if found is None:
        return ""
    mine, aim = (number(found[model], figure.factor, figure.decimals) for model in ("unlearned", "oracle"))
    return mine if found["oracle"] is None else f"{mine} ({aim})"


def _revival(told: Mapping[str, Any], request: int, figure: Shown) -> str:
    wanted = (request, figure.metric)
    found = next(each for each in told["revival"] if (each["request"], each["metric"]) == wanted)
    if found["value"] is None:
        return "–"
    mine = number(found["value"], figure.factor, figure.decimals, sign=True)
    null = [number(each, figure.factor, figure.decimals, sign=True) for each in sorted(found["null"])]
    return f"{mine} (null {null[0]} to {null[-1]})" if len(null) > 1 else f"{mine} (null {null[0]})" if null else mine


def sentences(told: Mapping[str, Any]) -> list[str]:
    """Return what must be read with the table: drift on test, cost, the earlier data, and whether there is a null."""
    kept = "could use" if told["keep_forget"] else "could not use"
    said = [
        f"The method {kept} what earlier requests forgot (task.keep_forget={str(told['keep_forget']).lower()}).",
        _drift(told),
        _cost(told["cost"]),
    ]
    few = [str(place) for place, each in enumerate(told["requests"], 1) if each["nonmembers"] < FEWEST_NONMEMBERS]
    if few:
        said.append(
            f"Too few to judge the attack: fewer than {FEWEST_NONMEMBERS} non-members for request {', '.join(few)}."
        )
    if told["oracles"] < 2:
        said.append("One oracle for each step gives no null of the revival: evaluation=full has three.")
    return [*said, NOTE]


def _drift(told: Mapping[str, Any]) -> str:
    drift = told["drift"]
    parts = [
        f"{number(cell['unlearned'], 100, 1)} % after {cell['after']}"
        + ("" if cell["oracle"] is None else f" (oracle {number(cell['oracle'], 100, 1)})")
        for cell in drift
    ]
    return (
        f"Accuracy on test, of classes that no request forgets: original {number(drift[0]['original'], 100, 1)} %, "
        + (f"{', '.join(parts)}.")
    )


def _cost(cost: Mapping[str, Mapping[str, Any]]) -> str:
    names = {"steps": "all steps", "at_once": "the same at once", "oracles": "an oracle for each step"}
    parts = [
        f"{names[name]} {each['seconds']:.1f} s" + (f" and {each['passes']:,} passes" if each["passes"] else "")
        for name, each in cost.items()
    ]
    return f"Cost: {', '.join(parts)}."


def title(told: Mapping[str, Any]) -> str:
    """Name a sequence in one line."""
    dataset = f"{told['dataset']} ({told['label']})"
    return " · ".join(
        [told["method"], f"{len(told['requests'])} requests in turn", dataset, told["model"], f"seed {told['seed']}"]
    )


def print_sequence(folder: Path) -> None:
    """Print the table of a sequence and the sentences below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told = read_sequence(folder)
    headings, rows = lines(told)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=112)
    table = Table(
        title=Text(title(told)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", vertical="top")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for sentence in sentences(told):
        console.print(sentence, markup=False, highlight=False)


def sequences_markdown(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Write a Markdown table for each sequence; empty without one."""
    parts = []
    for told in summaries:
        headings, rows = lines(told)
        sides = ["left", *["right"] * (len(headings) - 1)]
        table = pd.DataFrame(rows, columns=headings).to_markdown(index=False, disable_numparse=True, colalign=sides)
        parts.append(f"### Requests in turn: {title(told)}\n\n{table}\n\n{' '.join(sentences(told))}\n")
    return "\n".join(parts)
