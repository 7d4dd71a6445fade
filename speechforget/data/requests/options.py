"""Say which keys of `task` have an effect on which request; a record leaves out the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.data.requests.steps import SEQUENCE, naming

# (kind, by) -> ways to ask. The first way with its first key set counts, or else the last; only its keys have effect.
WAYS: Mapping[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("class", ""): (("classes",), ("percent", "seed"), ("number", "seed")),
    ("attribute", ""): (("seed",),),
    ("sample", "random"): (("percent", "balanced", "seed"),),
    ("sample", "published"): (("percent", "balanced", "seed", "list", "lists"),),
    ("sample", "ids"): (("ids", "seed"),),
    ("sample", "releases"): (("releases", "seed"),),
    ("sample", "pattern"): (("pattern",),),
    ("sample", "planted"): ((),),  # the dataset decides
    ("sample", "confused"): ((),),
    ("sample", "mislabelled"): ((),),
    ("sample", "backdoor"): ((),),
}
# task.by=speaker, or another column
BY_COLUMN = (("values",), ("share", "fewest", "seed"), ("number", "fewest", "seed"))
ALWAYS = ("kind", "by")
KNOWN = {key for ways in (*WAYS.values(), BY_COLUMN) for way in ways for key in way} | set(SEQUENCE)
# The values of conf/task: any other value was set by the user.
ONE_REQUEST: Mapping[str, Any] = {"requests": None, "at_once": False, "keep_forget": False, "after": None}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "class": {"classes": None, "number": 1, "percent": None, **ONE_REQUEST},
    "attribute": {},
    "sample": {
        **{"percent": 5, "balanced": True, "values": None, "number": 1, "share": None, "fewest": None},
        **{"ids": None, "releases": None, "pattern": None, "lists": None, **ONE_REQUEST},
    },
}


def counting(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that decide the request, beside `kind` and `by`."""
    if task.get("requests") is not None:
        key = naming(task)
        return ("requests", *(name for name in counting({**task, "requests": None, key: ()}) if name != key))
    ways = WAYS.get((task["kind"], str(task["by"]) if task["kind"] == "sample" else ""), BY_COLUMN)
    return next((way for way in ways if way and task.get(way[0]) is not None), ways[-1])


def counted(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task without keys that have no effect, for a record."""
    keys = (*ALWAYS, *counting(task), *(("at_once",) if task.get("at_once") else ()))
    keys += ("after", "keep_forget") if task.get("after") else ()
    return {name: value for name, value in task.items() if name in keys or name not in KNOWN}


def unused(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of the task that are set without effect -> their defaults.

    A `task.seed` equal to the seed of the run is not taken as set.
    """
    task, dataset = config["task"], config["dataset"]
    defaults = {**DEFAULTS.get(task["kind"], {}), "seed": 0, "list": {"name": f"{dataset['name']}-{dataset['label']}"}}
    if task.get("seed") == config["seed"]:
        defaults["seed"] = task["seed"]
    keys = counting(task)
    return {
        name: defaults[name]
        for name in task
        if name in KNOWN and name not in (*keys, *SEQUENCE) and name in defaults and task[name] != defaults[name]
    }
