"""Hide names of people: requests by speaker or by a list of ids carry them in names, settings and paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from speechforget.record.command import HIDDEN
from speechforget.record.salt import Salt

OPEN = ("random", "published", "planted", "confused")  # values of task.by whose names tell nothing of anybody
FOLDER = re.compile(r"(?P<words>.*?)(?P<by>sample-(?P<column>[^-]+)-).*(?P<digits>-[0-9a-f]{12})")
WORD = "hidden"
GROUPS = "_worst_speakers_"  # metrics that name speakers


def hidden_request(name: str, salt: Salt) -> str:
    """Return the name of a request with a salted hash for what may name people."""
    found = re.fullmatch(r"sample-(?P<by>[^-]+)-(?P<who>.+)", name)
    return f"sample-{found['by']}-{salt.hashed(found['who'])}" if found and found["by"] not in OPEN else name


def hidden_path(path: str) -> str:
    """Return the path of an artefact without the words that may name people; its key still finds it."""
    return "/".join(_hidden_folder(part) for part in path.split("/"))


def _hidden_folder(name: str) -> str:
    found = FOLDER.fullmatch(name)
    if found is None or found["column"] in OPEN:
        return name
    return f"{found['words']}{found['by']}{WORD}{found['digits']}"


def hidden_settings(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a config with a word in capitals for each path and for what names people."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            found[name] = hidden_settings(value, here)
        else:
            found[name] = HIDDEN[here] if here in HIDDEN and value is not None else value
    return found


def hidden_named(metric: str, named: list[str], salt: Salt) -> list[str]:
    """Return the groups that a metric names, with salted hashes for speakers. named: `name: mean`."""
    if GROUPS not in metric:
        return named
    parts = [each.rpartition(": ") for each in named]
    return [f"{salt.hashed(name)}: {mean}" for name, _, mean in parts]


def hidden_overrides(words: list[str]) -> list[str]:
    """Return overrides of a command line with a word in capitals for each path and for what names people."""
    split = [word.partition("=") for word in words]
    return [
        f"{name}={HIDDEN[plain]}" if (plain := name.lstrip("+")) in HIDDEN else f"{name}{sign}{value}"
        for name, sign, value in split
        if name not in {"output", "cache"}
    ]
