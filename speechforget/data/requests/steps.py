"""Read `task.requests`: the requests of a sequence, each as a task of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from speechforget.errors import NotApplicable, UserError

# How the entries of `task.requests` name what is forgotten, by (kind, by); any other `by` is a column: its values.
NAMING = {
    ("class", ""): "classes",
    ("sample", "random"): "percent",
    ("sample", "ids"): "ids",
    ("sample", "pattern"): "pattern",
}
RELEASES, VALUES = "releases", "values"
SINGLE = {("sample", by) for by in ("published", "planted", "confused", "mislabelled", "backdoor")}
SEQUENCE = ("requests", "at_once", "keep_forget", "after")  # keys of a task that say nothing about one request


def is_sequence(task: Mapping[str, Any]) -> bool:
    """Return whether a task has several requests that are unlearned one after another."""
    return task.get("requests") is not None and not task.get("at_once")


def way_of(task: Mapping[str, Any]) -> tuple[str, str]:
    """Return (kind, by) of a task; `by` is empty for classes."""
    return (str(task["kind"]), str(task["by"]) if task["kind"] == "sample" else "")


def naming(task: Mapping[str, Any]) -> str:
    """Return the key of a task that an entry of `task.requests` takes the place of."""
    way = way_of(task)
    if way[0] == "attribute":
        raise NotApplicable("task.requests is not defined for task=attribute, which stands alone: remove it.")
    if way in SINGLE:
        raise NotApplicable(
            f"task.requests is not defined for task.by={way[1]}, which has one request: use task.by=ids."
        )
    return RELEASES if way == ("sample", RELEASES) else NAMING.get(way, VALUES)


def steps_of(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the requests of a task in their order, each as a task without earlier ones.

    Raises UserError for fewer than two requests, or an empty one.
    """
    key, asked = naming(task), task["requests"]
    if key == RELEASES:
        return [_step(task, key, pair) for pair in _pairs(asked)]
    if not isinstance(asked, list | tuple) or len(asked) < 2:
        raise UserError(f"task.requests must be a list of two or more requests, not {asked!r}.")
    for number, entry in enumerate(asked, 1):
        if entry is None or entry in ("", []):
            raise UserError(f"Request {number} of task.requests is empty: name what it forgets, or remove it.")
    return [_step(task, key, entry) for entry in asked]


def _pairs(releases: Any) -> list[list[Any]]:
    if not isinstance(releases, list | tuple) or len(releases) < 3:
        raise UserError(
            f"task.requests must list three or more releases for task.by=releases, not {releases!r}: "
            "two of them are one request, task.releases."
        )
    return [list(pair) for pair in pairwise(releases)]


def _step(task: Mapping[str, Any], key: str, entry: Any) -> dict[str, Any]:
    rest = {name: value for name, value in task.items() if name not in SEQUENCE}
    return {**rest, key: entry, "keep_forget": task.get("keep_forget", False)}


def with_earlier(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the requests of a task in their order, each after those before it."""
    steps, first = steps_of(task), list(task.get("after") or ())
    return [{**step, "after": [*first, *steps[:number]] or None} for number, step in enumerate(steps)]
