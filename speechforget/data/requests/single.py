"""Select the utterances of one request, and the holdout utterances that match them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import attributes
from speechforget.data.requests import published
from speechforget.data.requests.attribute import KIND
from speechforget.data.requests.balance import attribute_request
from speechforget.data.requests.draw import (
    NONE,
    Rows,
    drawn_values,
    named_values,
    number_for,
    random_rows,
    rows_of,
    with_copies,
)
from speechforget.data.requests.ids import read_ids
from speechforget.data.requests.nonmembers import all_of, concentrated, matching_rows
from speechforget.data.requests.releases import read_gone
from speechforget.data.requests.request import Request
from speechforget.data.transcripts import SAID
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3
LETTERS_SHOWN = 40  # of a pattern, in names of folders
SPEAKERS = (
    "this corpus does not say who speaks. For a folder, dataset.corpus.speaker_pattern=REGEX finds the speaker in file "
    "names (as its first group); or select recordings by their ids with task.by=pattern task.pattern=REGEX"
)
UNKNOWN_SPEAKERS = (
    " This corpus does not say who speaks: if the list is of one person, non-members also differ in their voice "
    "(set dataset.corpus.speaker_pattern)."
)
KNOWN_ANSWERS = {  # task.by -> how a dataset gets such recordings, and whether the holdout has some
    "planted": "dataset.planted.kind=noise gives them keys",
    "confused": "dataset.confused.classes=[FIRST,SECOND] exchanges their labels",
    "mislabelled": "dataset.mislabelled.percent=10 gives them wrong labels",
    "backdoor": "dataset.backdoor.target=CLASS gives them a trigger, and that class as their label",
}
DRAWN = ("random", "published", "ids", "releases", "pattern", *KNOWN_ANSWERS)  # what task.by can be besides a column


def select_one(
    table: pd.DataFrame, task: Mapping[str, Any], left_out: Mapping[str, str] = MappingProxyType({})
) -> Request:
    """Return the one request that `task` describes, whatever came before it, for a table from `split`.

    kind "class": the labels `classes`, or `number` of them drawn by `seed`.
    kind "attribute": the column `by`, see `balance`.
    kind "sample", by:
        "random": `percent` of the training utterances, a prefix of one random order, so that a larger percent includes
            every smaller one; the classes take turns if `balanced`.
        "published": the same, balanced, from a list that was made once (see `published`).
        "ids": the training utterances listed in the file `ids`; listed utterances of other subsets are withdrawn.
        "releases": those that the first of two corpus tables lists and the second does not, in the same way.
        "pattern": the utterances in whose ids the regular expression `pattern` matches.
        "planted", "confused", "mislabelled", "backdoor": the training utterances with a key, with a wrong label, or
            with both a trigger and a wrong label (see `data.known_answers`).
        "speaker" or another column: the utterances of `values`, or of values drawn by `seed`: `number` of them, or as
            many as cover a `share`.
    Exact copies (column unit) are included.
    left_out: ids of the corpus that are in no subset -> the hash of their samples, or "". A list may name them; then
        exact copies of them that are in a subset count as listed.
    Raises UserError for requests that are empty, total or unknown, and for samples that leave no utterance of a label.
    """
    kind, seed = task["kind"], int(task["seed"])
    if kind == "class":
        return _classes(table, task, seed)
    if kind == KIND:
        return attribute_request(table, task)
    if kind != "sample":
        raise UserError(f"task.kind is '{kind}': choose sample, class or attribute.")
    by = str(task["by"])
    if by not in DRAWN and by in attributes(table):
        return _by_column(table, task, by, seed)
    if by == "speaker":
        raise UserError(f"task.by is speaker, and {SPEAKERS}.")
    if by == "pattern":
        return _by_pattern(table, task["pattern"])
    if by in KNOWN_ANSWERS:
        return _known_answer(table, by)
    withdrawn, listed = NONE, by in ("ids", "releases")
    if by == "random":
        name = f"random-{_percent(task)}percent{'' if task['balanced'] else '-unbalanced'}-seed{seed}"
        rows = random_rows(table, task["percent"], task["balanced"], seed)
    elif by == "published":
        name = f"published-{_percent(task)}percent-seed{seed}"
        rows = published.rows(table, task, seed)
    elif listed:
        file = task["ids"] if by == "ids" else " and ".join(map(str, task["releases"]))
        known = pd.Series([*table["id"], *left_out])
        ids = read_ids(file, known) if by == "ids" else read_gone(task["releases"])
        rows, withdrawn = _listed(table, ids, file, left_out)
        name = f"{by}-{Path(str(file)).stem}"
    else:
        raise UserError(f"task.by is '{by}': {nearest(by, [*attributes(table), *DRAWN], limit=30)}.")
    forget = with_copies(table, rows)
    # Longer texts are less likely, so the loss would tell lengths apart.
    drawn = ["duration"] if (table["label"] == SAID).all() else ["label"]
    columns = concentrated(table, forget) if listed else drawn
    request = _request(table, forget, matching_rows(table, forget, seed, columns, withdrawn), (), f"sample-{name}")
    unknown = listed and len(request.nonmembers) and not ("speaker" in table and (table["speaker"] != "").any())
    return replace(
        request, withdrawn=withdrawn, listed=listed, matched=request.matched + (UNKNOWN_SPEAKERS if unknown else "")
    )


def _join(values: Iterable[str]) -> str:
    values = [re.sub(r"[^\w+.-]+", "_", value) for value in values]
    return "-".join(values) if len(values) <= NAMES_SHOWN else f"{values[0]}-and-{len(values) - 1}-more"


def _request(
    table: pd.DataFrame, rows: Rows, matched: tuple[Rows, str], forgotten: tuple[str, ...], name: str
) -> Request:
    """Make a request with copies included. Raises UserError for one that is empty or leaves too little."""
    forget = with_copies(table, rows)
    if len(forget) > len(rows):
        logger.info("request %s: %d exact copies and overlapping windows are included", name, len(forget) - len(rows))
    nonmembers, sentence = matched
    if not (table["subset"] == "holdout").any():
        sentence = "There are no non-members: nothing was held out (dataset.holdout=0)."
    request = Request(forget, nonmembers, forgotten, name, matched=sentence)
    retained = table.iloc[request.retain(table)]
    if not len(forget):
        raise UserError(f"The request {name} is empty: none of its utterances is in the training subset.")
    if retained.empty:
        raise UserError(f"The request {name} is the whole training subset ({len(forget)} utterances): ask for less.")
    emptied = sorted(set(table["label"].iloc[forget]) - set(retained["label"]) - set(forgotten))
    if emptied:
        shown = ", ".join(emptied[:NAMES_SHOWN]) + (", ..." if len(emptied) > NAMES_SHOWN else "")
        raise UserError(
            f"The request {name} leaves no training utterance of {shown}: "
            "ask for less, or forget whole classes with task=class."
        )
    logger.info(
        "request %s: %d of %d training utterances. %s", name, len(forget), len(forget) + len(retained), sentence
    )
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
    rows = rows_of((table["subset"] == "train") & picked)
    return _request(
        table, rows, all_of(table, picked, "of the forgotten classes"), tuple(chosen), f"class-{_join(chosen)}"
    )


def _by_column(table: pd.DataFrame, task: Mapping[str, Any], column: str, seed: int) -> Request:
    if column == "speaker" and not (table[column] != "").any():
        raise UserError(f"task.by is speaker, and {SPEAKERS}.")
    if task["values"] is None:
        values = drawn_values(table, column, task["number"], seed, "task.values", task["share"], task["fewest"])
    elif task["share"] is not None:
        raise UserError("task.values names what to forget and task.share asks for a draw: set only one of them.")
    else:
        values = named_values(table, column, task["values"], "task.values")
    picked = table[column].isin(values)
    rows = rows_of((table["subset"] == "train") & picked)
    return _request(table, rows, all_of(table, picked, f"of the same {column}"), (), f"sample-{column}-{_join(values)}")


def _by_pattern(table: pd.DataFrame, pattern: Any) -> Request:
    if not isinstance(pattern, str) or not pattern:
        raise UserError(
            f"task.pattern is {pattern!r}: "
            f"give a regular expression for ids such as '{table['id'].iloc[0]}', in quotes."
        )
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"task.pattern={pattern} is not a regular expression ({error}): write one such as '/anna_'."
        ) from None
    picked = pd.Series([expression.search(identity) is not None for identity in table["id"]], index=table.index)
    rows = rows_of((table["subset"] == "train") & picked)
    if not len(rows):
        found = f"{picked.sum()} ids, none of them in training" if picked.any() else "no id"
        raise UserError(f"task.pattern={pattern} matches {found}: ids look like '{table['id'].iloc[0]}'.")
    return _request(
        table,
        rows,
        all_of(table, picked, "matched by the pattern"),
        (),
        f"sample-pattern-{_join([pattern])[:LETTERS_SHOWN]}",
    )


def _known_answer(table: pd.DataFrame, by: str) -> Request:
    """Return the training utterances that `data.known_answers` changed; non-members are those of the holdout."""
    column, unchanged = ("planted", "") if by == "planted" else ("taught", table["label"])
    picked = table[column] != unchanged if column in table else pd.Series(data=False, index=table.index)
    rows, word = rows_of((table["subset"] == "train") & picked), "triggered" if by == "backdoor" else by
    if not len(rows):
        raise UserError(f"task.by={by} has nothing to forget, as no training recording is {word}: {KNOWN_ANSWERS[by]}.")
    nonmembers, sentence = all_of(table, picked, f"{word}, too")
    if not len(nonmembers):
        sentence = f"There are no non-members: no holdout recording is {word}."
    return _request(table, rows, (nonmembers, sentence), (), f"sample-{by}")


def _percent(task: Mapping[str, Any]) -> str:
    try:
        return f"{float(task['percent']):g}"
    except (TypeError, ValueError):
        raise UserError(f"task.percent is {task['percent']}: give a number, such as 5.") from None


def _listed(table: pd.DataFrame, ids: Sequence[str], file: str, left_out: Mapping[str, str]) -> tuple[Rows, Rows]:
    """Return what a list names, copies included: the training rows, and the rows of other subsets."""
    known = set(table["id"])
    unknown = [identity for identity in ids if identity not in known and identity not in left_out]
    if unknown:
        raise UserError(
            f"The list {file} has {len(unknown)} unknown utterance ids, the first is '{unknown[0]}': "
            f"{nearest(unknown[0], table['id'], limit=3)}."
        )
    named = table["id"].isin(ids)
    if "sha1" in table:
        named |= table["sha1"].isin({left_out.get(identity, "") for identity in ids} - {""})
    listed = table["unit"].isin(set(table["unit"][named]))
    rows, withdrawn = rows_of(listed & (table["subset"] == "train")), rows_of(listed & (table["subset"] != "train"))
    counts = _counted(table["subset"].iloc[withdrawn])
    if absent := sum(identity not in known for identity in ids):
        logger.warning(
            "The list %s: %d utterances are in no subset of this split, so no model was trained on them.",
            file,
            absent,
        )
    if not len(rows):
        raise UserError(
            f"The list {file} has nothing to forget: none of its {len(ids)} utterances is in training ({counts})."
        )
    if len(withdrawn):
        logger.warning(
            "The list %s: %d utterances were trained on and must be forgotten; "
            "%d were not (%s) and are left out of metrics and validation.",
            *(file, len(rows), len(withdrawn), counts),
        )
    return rows, withdrawn


def _counted(subsets: pd.Series) -> str:
    return (
        ", ".join(f"{count} {subset}" for subset, count in sorted(subsets.value_counts().items()))
        or "they are in no subset"
    )
