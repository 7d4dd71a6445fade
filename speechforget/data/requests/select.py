"""Select what must be forgotten: one request, a request after earlier ones, or several at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data.requests.attribute import KIND
from speechforget.data.requests.draw import NONE, Rows
from speechforget.data.requests.ids import read_ids
from speechforget.data.requests.past import Earlier, Past, past_of, read_earlier, without
from speechforget.data.requests.releases import read_gone
from speechforget.data.requests.request import SEVERAL, Request, save
from speechforget.data.requests.single import DRAWN, KNOWN_ANSWERS, select_one
from speechforget.data.requests.steps import steps_of
from speechforget.errors import NotApplicable, UserError

logger = logging.getLogger(__name__)

__all__ = ["DRAWN", "KNOWN_ANSWERS", "NONE", "Request", "Rows", "save", "select"]

LeftOut = Mapping[str, str]


def select(table: pd.DataFrame, task: Mapping[str, Any], left_out: LeftOut = MappingProxyType({})) -> Request:
    """Return the request that `task` (conf/task/*.yaml) describes, for a table from `split`; see `select_one`.

    task.after: earlier requests, each a task that is selected first, or a path that `read_earlier` reads. Their
        utterances are withdrawn from everything.
    task.at_once: all of `task.requests` as one request.
    Raises UserError for requests that are empty, total or unknown, and for utterances that an earlier request names.
    """
    earlier: list[Earlier] = []
    for each in task.get("after") or ():
        if isinstance(each, Mapping):
            earlier.append(_next(table, each, left_out, earlier).described(table))
        else:
            earlier += read_earlier(each)
    if task.get("at_once"):
        return _at_once(table, task, left_out, earlier)
    return _next(table, task, left_out, earlier)


def _next(table: pd.DataFrame, task: Mapping[str, Any], left_out: LeftOut, earlier: Sequence[Earlier]) -> Request:
    """Select a request among what earlier ones leave."""
    if not earlier:
        return select_one(table, task, left_out)
    if KIND in {task["kind"], *(each.kind for each in earlier)}:
        raise NotApplicable(
            "A request for an attribute stands alone, because unlearning recordings would teach the attribute again: "
            "unset original.result, original.checkpoint and task.after."
        )
    past = past_of(table, earlier)
    rest = without(table, past)
    _refuse_twice(table, rest, task, past)
    request = select_one(rest, task, {**left_out, **dict.fromkeys(_deleted(table, earlier), "")})
    logger.info("%d earlier requests: %d utterances are withdrawn from everything", len(earlier), len(past.rows))
    return replace(
        request,
        name=f"{request.name}-after{len(earlier)}",
        withdrawn=np.union1d(request.withdrawn, past.rows),
        past=past,
        keep_forget=bool(task.get("keep_forget", False)),
    )


def _deleted(table: pd.DataFrame, earlier: Sequence[Earlier]) -> set[str]:
    return {identity for each in earlier for identity in each.ids} - set(table["id"])


def _at_once(table: pd.DataFrame, task: Mapping[str, Any], left_out: LeftOut, earlier: Sequence[Earlier]) -> Request:
    """Join the requests that `task.requests` names one after another."""
    start, found, known = past_of(table, earlier), [], list(earlier)
    for step in steps_of(task):
        found.append(_next(table, step, left_out, known))
        known.append(found[-1].described(table))
    nonmembers: Rows = reduce(np.union1d, (each.nonmembers for each in found))
    return Request(
        reduce(np.union1d, (each.forget for each in found)),
        np.setdiff1d(nonmembers, reduce(np.union1d, (each.unheard for each in found))),
        tuple(sorted({name for each in found for name in each.forgotten})),
        SEVERAL,
        np.union1d(reduce(np.union1d, (each.unheard for each in found)), start.rows),
        f"Non-members: {len(nonmembers)} holdout recordings, those of {len(found)} requests together.",
        past=start,
        keep_forget=bool(task.get("keep_forget", False)),
    )


def _refuse_twice(table: pd.DataFrame, rest: pd.DataFrame, task: Mapping[str, Any], past: Past) -> None:
    """Raise UserError for what is named although an earlier request has taken it."""
    for option, names, taken in _named(table, rest, task, past):
        if twice := [name for name in names if name in taken]:
            who = next(
                (each.name for each in past.requests if twice[0] in {*each.ids, *each.classes}), "an earlier one"
            )
            raise UserError(
                f"{option} names {len(twice)} of what an earlier request has forgotten already, first '{twice[0]}' "
                f"({who}): name it in one request only."
            )


def _named(
    table: pd.DataFrame, rest: pd.DataFrame, task: Mapping[str, Any], past: Past
) -> Iterator[tuple[str, list[str], set[str]]]:
    """Yield option, named ids or values, and those that nothing is left of."""
    if task["kind"] == "sample" and task["by"] in ("ids", "releases"):
        by = task["by"]
        names = read_ids(task["ids"], table["id"]) if by == "ids" else read_gone(task["releases"])
        yield f"task.{by}={task[by]}", names, {identity for each in past.requests for identity in each.ids}
        return
    column, option = ("label", "classes") if task["kind"] == "class" else (str(task["by"]), "values")
    named = task.get(option)
    if named is not None and column in table:
        values = [named] if isinstance(named, (str, int, float)) else list(named)
        trained = [set(each.loc[each["subset"] == "train", column]) for each in (table, rest)]
        yield f"task.{option}", [str(value) for value in values], trained[0] - trained[1]
