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
from numpy.typing import NDArray

from speechforget.data.corpus import attributes, identities
from speechforget.draws import uniform
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3
Rows = NDArray[np.int64]


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
        return np.setdiff1d(_rows(table["subset"] == "train"), self.forget)


def select(table: pd.DataFrame, task: Mapping[str, Any]) -> Request:
    """The request that `task` describes (conf/task/*.yaml), on a table from `split`.

    kind "class": the labels `classes`, or `number` of them drawn by `seed`. kind "sample", by "random": `percent` of the training utterances, the
    first of one drawn order (so that more percent include fewer), class by class in turn when `balanced`; by "ids": those listed in the file `ids`;
    by "speaker" or another column: the utterances of `<column>s`, or of `number` of them drawn by `seed`. Exact copies (the column unit) come along.
    Raises UserError for requests that are empty, total or unknown, and for requests for samples that leave no utterance of a label.
    """
    kind, seed = task["kind"], int(task["seed"])
    if kind == "class":
        return _classes(table, task, seed)
    if kind != "sample":
        raise UserError(f"task.kind is '{kind}': choose sample or class.")
    by = str(task["by"])
    choices = [*(column for column in attributes(table) if column != "take"), "random", "ids"]
    if by == "random":
        rows, name = _random(table, task, seed), f"random-{float(task['percent']):g}percent{'' if task['balanced'] else '-unbalanced'}-seed{seed}"
    elif by == "ids":
        rows, name = _listed(table, task["ids"]), f"ids-{Path(str(task['ids'])).stem}"
    elif by in attributes(table):
        values = _values(table, by, task.get(f"{by}s"), task.get("number"), seed)
        rows, name = _rows((table["subset"] == "train") & table[by].isin(values)), f"{by}-{_join(values)}"
        return _request(table, rows, _rows((table["subset"] == "holdout") & table[by].isin(values)), (), f"sample-{name}")
    else:
        raise UserError(f"task.by is '{by}': {nearest(by, choices)}.")
    forget = _with_copies(table, rows)
    return _request(table, forget, _matching(table, forget, seed), (), f"sample-{name}")


def save(request: Request, table: pd.DataFrame, folder: Path) -> None:
    """Writes forget.txt, retain.txt and nonmembers.txt: UTF-8, one utterance id a line; forget.txt can be a request by ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"forget": request.forget, "retain": request.retain(table), "nonmembers": request.nonmembers}.items():
        text = "".join(f"{identity}\n" for identity in table["id"].iloc[rows])
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def _rows(mask: pd.Series) -> Rows:
    return np.flatnonzero(mask.to_numpy()).astype(np.int64)


def _join(values: Iterable[str]) -> str:
    values = [re.sub(r"[^\w+.-]+", "_", value) for value in values]
    return "-".join(values) if len(values) <= NAMES_SHOWN else f"{values[0]}-and-{len(values) - 1}-more"


def _with_copies(table: pd.DataFrame, rows: Rows) -> Rows:
    chosen = (table["subset"] == "train") & table["unit"].isin(table["unit"].iloc[rows])
    return _rows(chosen)


def _request(table: pd.DataFrame, rows: Rows, nonmembers: Rows, forgotten: tuple[str, ...], name: str) -> Request:
    """Adds copies and refuses what cannot be judged."""
    forget = _with_copies(table, rows)
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
    chosen = _values(table, "label", task["classes"], task["number"], seed, option="classes")
    known = table["label"].nunique()
    if len(chosen) == known:
        raise UserError(f"The request is for all {known} classes: leave at least one to retain.")
    picked = table["label"].isin(chosen)
    rows, nonmembers = _rows((table["subset"] == "train") & picked), _rows((table["subset"] == "holdout") & picked)
    return _request(table, rows, nonmembers, tuple(chosen), f"class-{_join(chosen)}")


def _values(table: pd.DataFrame, column: str, named: Any, number: Any, seed: int, option: str | None = None) -> list[str]:
    """The named values of a column, or `number` of those that occur in training, drawn; sorted. (More of them include fewer.)"""
    option = option or f"{column}s"
    known = sorted(set(table.loc[table["subset"] == "train", column]) - {""})
    if named is None:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(known):
            raise UserError(f"task.number is {number}: name task.{option}, or ask for 1 to {len(known)} of them.")
        drawn = uniform(identities(pd.Series(known)), 1, seed, "request", column)[:, 0]
        return sorted(known[place] for place in np.argsort(drawn, kind="stable")[:number])
    values = [named] if isinstance(named, (str, int, float)) else list(named)
    for value in values:
        if isinstance(value, bool):
            raise UserError(f"task.{option} holds {value}, not a name: put words such as yes, no, on and off into quotes.")
        if str(value) not in known:
            raise UserError(f"task.{option} names '{value}', which the training subset lacks: {nearest(str(value), known)}.")
    if not values:
        raise UserError(f"task.{option} is empty: {nearest('', known)}.")
    return sorted({str(value) for value in values})


def _random(table: pd.DataFrame, task: Mapping[str, Any], seed: int) -> Rows:
    """A prefix of one order of the units (an utterance with its copies): the same order whatever the percent."""
    try:
        percent = float(task["percent"])
    except (TypeError, ValueError):
        percent = float("nan")
    if not 0 < percent < 100:
        raise UserError(f"task.percent is {task['percent']}: give a share of the training utterances, more than 0 and less than 100.")
    train = table[table["subset"] == "train"]
    size = train.groupby("unit")["id"].transform("size")
    units = train.assign(size=size, place=uniform(identities(train["unit"]), 1, seed, "request")[:, 0]).drop_duplicates("unit")
    units = units.sort_values(["place", "unit"])
    if task["balanced"]:
        units = units.assign(turn=units.groupby("label").cumcount()).sort_values(["turn", "place", "unit"])
    wanted = max(1, round(percent / 100 * len(train)))
    reached = int(np.searchsorted(units["size"].cumsum().to_numpy(), wanted))
    return _rows((table["subset"] == "train") & table["unit"].isin(units["unit"].iloc[: reached + 1]))


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
    return _rows(table["id"].isin(ids))


def _matching(table: pd.DataFrame, forget: Rows, seed: int) -> Rows:
    """Holdout rows in the label proportions of `forget`, as many as there are; labels without holdout are left out."""
    holdout = table[table["subset"] == "holdout"]
    asked, there = table["label"].iloc[forget].value_counts(), holdout["label"].value_counts()
    shared = asked.index.intersection(there.index)
    missing = sorted(set(asked.index) - set(shared))
    if missing and len(there):
        logger.warning("no holdout utterance of %s: left out of the non-members", ", ".join(missing))
    if not len(shared):
        return np.zeros(0, dtype=np.int64)
    scale = (there[shared] / asked[shared]).min()
    taken = (asked[shared] * scale).round().clip(lower=1).astype(int)
    place = pd.Series(uniform(identities(holdout["id"]), 1, seed, "nonmembers")[:, 0], index=holdout.index)
    rank = place.groupby(holdout["label"]).rank(method="first")
    chosen = rank <= holdout["label"].map(taken).fillna(0)
    return np.sort(holdout.index[chosen].to_numpy(dtype=np.int64))
