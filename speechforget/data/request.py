"""Which training utterances must be forgotten, and which holdout utterances are their like."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data import published
from speechforget.data.corpus import attributes
from speechforget.data.drawing import Rows, drawn_values, matching_rows, named_values, number_for, random_rows, rows_of, with_copies
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3
DRAWN = ("random", "published", "ids")  # what task.by can be besides a column


@dataclass(frozen=True)
class Request:
    """Row numbers in the table of `split`, ascending.

    forget: training rows to be forgotten. nonmembers: the holdout rows that match them, for attacks. forgotten: labels that are removed whole
    (none for samples). name: short and readable, fit for a file name.
    """

    forget: Rows
    nonmembers: Rows
    forgotten: tuple[str, ...]
    name: str

    def retain(self, table: pd.DataFrame) -> Rows:
        """The training rows that stay."""
        return np.setdiff1d(rows_of(table["subset"] == "train"), self.forget)


def select(table: pd.DataFrame, task: Mapping[str, Any]) -> Request:
    """The request that `task` describes (conf/task/*.yaml), on a table from `split`.

    kind "class": the labels `classes`, or `number` of them drawn by `seed`. kind "sample", by "random": `percent` of the training utterances, the
    first of one drawn order (so that more percent include fewer), class by class in turn when `balanced`; by "published": the same, balanced, as a
    list holds it that was made once (see `published`); by "ids": those listed in the file `ids`; by "speaker" or another column: the utterances of
    `values`, or of some drawn by `seed`: `number` of them, or so many that they hold a `share`. Exact copies (the column unit) come along.
    Raises UserError for requests that are empty, total or unknown, and for requests for samples that leave no utterance of a label.
    """
    kind, seed = task["kind"], int(task["seed"])
    if kind == "class":
        return _classes(table, task, seed)
    if kind != "sample":
        raise UserError(f"task.kind is '{kind}': choose sample or class.")
    by = str(task["by"])
    if by not in DRAWN and by in attributes(table):
        return _by_column(table, task, by, seed)
    if by == "random":
        name = f"random-{_percent(task)}percent{'' if task['balanced'] else '-unbalanced'}-seed{seed}"
        rows = random_rows(table, task["percent"], task["balanced"], seed)
    elif by == "published":
        name = f"published-{_percent(task)}percent-seed{seed}"
        rows = published.rows(table, task, seed)
    elif by == "ids":
        rows, name = _listed(table, task["ids"]), f"ids-{Path(str(task['ids'])).stem}"
    else:
        raise UserError(f"task.by is '{by}': {nearest(by, [*attributes(table), *DRAWN], limit=30)}.")
    forget = with_copies(table, rows)
    return _request(table, forget, matching_rows(table, forget, seed), (), f"sample-{name}")


def save(request: Request, table: pd.DataFrame, folder: Path) -> None:
    """Writes forget.txt, retain.txt and nonmembers.txt: UTF-8, one utterance id a line; forget.txt can be a request by ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"forget": request.forget, "retain": request.retain(table), "nonmembers": request.nonmembers}.items():
        text = "".join(f"{identity}\n" for identity in table["id"].iloc[rows])
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def _join(values: Iterable[str]) -> str:
    values = [re.sub(r"[^\w+.-]+", "_", value) for value in values]
    return "-".join(values) if len(values) <= NAMES_SHOWN else f"{values[0]}-and-{len(values) - 1}-more"


def _request(table: pd.DataFrame, rows: Rows, nonmembers: Rows, forgotten: tuple[str, ...], name: str) -> Request:
    """Adds copies and refuses what cannot be judged."""
    forget = with_copies(table, rows)
    if len(forget) > len(rows):
        logger.info("request %s: %d exact copies come along", name, len(forget) - len(rows))
    request = Request(forget, nonmembers, forgotten, name)
    retained = table.iloc[request.retain(table)]
    if not len(forget):
        raise UserError(f"The request {name} is empty: none of its utterances is in the training subset.")
    if retained.empty:
        raise UserError(f"The request {name} is all of the training subset ({len(forget)} utterances): ask for less.")
    emptied = sorted(set(table["label"].iloc[forget]) - set(retained["label"]) - set(forgotten))
    if emptied:
        shown = ", ".join(emptied[:NAMES_SHOWN]) + (", ..." if len(emptied) > NAMES_SHOWN else "")
        raise UserError(f"The request {name} leaves no training utterance of {shown}: ask for less, or forget whole classes with task=class.")
    logger.info("request %s: %d of %d training utterances, %d matching non-members", name, len(forget), len(forget) + len(retained), len(nonmembers))
    return request


def _classes(table: pd.DataFrame, task: Mapping[str, Any], seed: int) -> Request:
    if task["classes"] is None:
        number = task["number"] if task.get("percent") is None else number_for(table, "label", task["percent"], seed)
        chosen = drawn_values(table, "label", number, seed, "task.classes")
    else:
        chosen = named_values(table, "label", task["classes"], "task.classes")
    known = table["label"].nunique()
    if len(chosen) == known:
        raise UserError(f"The request is for all {known} classes: leave at least one to retain.")
    picked = table["label"].isin(chosen)
    rows, nonmembers = rows_of((table["subset"] == "train") & picked), rows_of((table["subset"] == "holdout") & picked)
    return _request(table, rows, nonmembers, tuple(chosen), f"class-{_join(chosen)}")


def _by_column(table: pd.DataFrame, task: Mapping[str, Any], column: str, seed: int) -> Request:
    if task["values"] is None:
        values = drawn_values(table, column, task["number"], seed, "task.values", task["share"], task["fewest"])
    elif task["share"] is not None:
        raise UserError("task.values names what to forget and task.share asks for a draw: set one of them.")
    else:
        values = named_values(table, column, task["values"], "task.values")
    picked = table[column].isin(values)
    rows, nonmembers = rows_of((table["subset"] == "train") & picked), rows_of((table["subset"] == "holdout") & picked)
    return _request(table, rows, nonmembers, (), f"sample-{column}-{_join(values)}")


def _percent(task: Mapping[str, Any]) -> str:
    try:
        return f"{float(task['percent']):g}"
    except (TypeError, ValueError):
        raise UserError(f"task.percent is {task['percent']}: give a number, such as 5.") from None


def _listed(table: pd.DataFrame, file: Any) -> Rows:
    if file is None:
        raise UserError("task.ids is not set: name a text file with one utterance id a line, as saved with every request (forget.txt).")
    try:
        lines = Path(str(file)).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list task.ids={file} cannot be read ({error}): name a UTF-8 text file with one utterance id a line.") from None
    ids = list(dict.fromkeys(line.rstrip("\r") for line in lines if line.strip()))
    if not ids:
        raise UserError(f"The list task.ids={file} is empty: write one utterance id a line, such as {table['id'].iloc[0]}.")
    subset = table.set_index("id")["subset"].reindex(ids)
    unknown = subset.index[subset.isna()]
    if len(unknown):
        raise UserError(
            f"The list {file} has {len(unknown)} unknown utterance ids, '{unknown[0]}' first: {nearest(unknown[0], table['id'], limit=3)}."
        )
    untrained = subset.index[subset != "train"]
    if len(untrained):
        where = f"'{untrained[0]}' is {subset[untrained[0]]}"
        raise UserError(
            f"The list {file} has {len(untrained)} utterances that are not trained on ({where}): take them out, there is nothing to forget."
        )
    return rows_of(table["id"].isin(ids))
