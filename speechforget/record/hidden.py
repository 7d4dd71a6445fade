"""Hide names of people: requests by speaker or by a list of ids carry them in names, settings and paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from speechforget.data.groups import USUAL
from speechforget.record.command import HIDDEN, SPEAKER, word_for
from speechforget.record.salt import Salt

# Values of task.by that tell nothing of anybody.
OPEN = ("random", "published", "planted", "confused", "mislabelled", "backdoor")
FOLDER = re.compile(r"(?P<words>.*?)(?P<by>sample-(?P<column>[^-]+)-).*(?P<digits>-[0-9a-f]{12})")
CLASSES = re.compile(rf"(?P<words>(?:.*-)?{SPEAKER}-.*?)(?P<by>class-).*(?P<digits>-[0-9a-f]{{12}})")
WORD = "hidden"
SEVERAL = {"task.requests": "REQUESTS", "task.after": "EARLIER"}  # requests that may name people
GROUPS = "_worst_speakers_"  # metrics that name speakers
COMPARED = re.compile(r"accuracy_(?:gap|lowest)_(?P<column>.+)_(?:validation|test)")  # metrics that name groups


def hidden_request(name: str, label: str, salt: Salt) -> str:
    """Return the name of a request with a salted hash for what may name people. label: what the model tells apart."""
    found = re.fullmatch(r"(?P<start>sample-(?P<by>[^-]+)-|class-)(?P<who>.+)", name)
    if found is None or (found["by"] in OPEN if found["by"] else label != SPEAKER):
        return name
    return found["start"] + salt.hashed(found["who"])


def hidden_path(path: str) -> str:
    """Return the path of an artefact without the words that may name people; its key still finds it."""
    return "/".join(_hidden_folder(part) for part in path.split("/"))


def _hidden_folder(name: str) -> str:
    found = FOLDER.fullmatch(name) or CLASSES.fullmatch(name)
    if found is None or found.groupdict().get("column") in OPEN:
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
            found[name] = word_for(here, value) or value
    return found


def hidden_named(metric: str, named: list[str], label: str, salt: Salt) -> list[str]:
    """Return the groups that a metric names, with salted hashes for what may name people. named: `name: mean`."""
    found = COMPARED.fullmatch(metric)
    open_column = found["column"] in USUAL if found else GROUPS not in metric and label != SPEAKER
    if open_column:
        return named
    parts = [each.rpartition(": ") for each in named]
    return [f"{salt.hashed(name)}: {mean}" for name, _, mean in parts]


def hidden_overrides(words: list[str]) -> list[str]:
    """Return overrides of a command line with a word in capitals for each path and for what names people."""
    split, hidden = [word.partition("=") for word in words], HIDDEN | SEVERAL
    return [
        f"{name}={hidden[plain]}" if (plain := name.lstrip("+")) in hidden else f"{name}{sign}{value}"
        for name, sign, value in split
        if name not in {"output", "cache"}
    ]
