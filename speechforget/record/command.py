"""Write the command line that makes a result, from the config that it recorded."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("dataset", "model", "train", "method", "evaluation")  # whose `name` is the name of their file
# Paths, which a reader has elsewhere, and names of people -> what stands for them.
HIDDEN = {
    "dataset.root": "RECORDINGS",
    "original.checkpoint": "CHECKPOINT",
    "task.ids": "IDS",
    "task.pattern": "PATTERN",
    "task.values": "VALUES",
    "task.lists": "LISTS",
    "task.releases": "RELEASES",
    "original.result": "RESULT",
}
# Classes, which name people where the classes are speakers.
CLASSES = {
    "task.classes": "CLASSES",
    "dataset.confused.classes": "CLASSES",
    "dataset.backdoor.target": "CLASS",
    "original.labels": "LABELS",
}
# What changes neither numbers nor what is recorded: where files go, who runs, and what `tuned` compared.
LEFT_OUT = ("output", "cache", "plan", "only", "lock", "logger", "launch", "tuned")
SPEAKER = "speaker"  # a label whose classes are people
PLAIN = re.compile(r"[\w./:@%+-]+")
NOT_TEXT = re.compile(r"(?i)(true|false|null|nan|inf|[+-]?[\d_.]+(e[+-]?\d+)?)")


def command_of(config: Mapping[str, Any]) -> str | None:
    """Return the command, with a word in capitals for each path and person; None if a choice is not in `conf`.

    Only the choices and values that differ from the defaults are named.
    """
    config = without_speakers(config)
    chosen = [f"task={config['task']['kind']}", *(f"{group}={config[group]['name']}" for group in GROUPS)]
    chosen += ["trainer=gpu"] if config["trainer"]["accelerator"] != "cpu" else []
    defaults = _defaults(tuple(chosen))
    if defaults is None:
        return None
    words = [word for word in chosen if word not in _usual()]
    words += [f"{path}={_shown(path, value)}" for path, value in _changed(config, defaults)]
    words += [f"~{path}" for path in _removed(config, defaults)]
    return shlex.join(["speechforget", *words])


def without_speakers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with words in capitals for classes that are speakers, and for requests that may name people."""
    label = (config.get("dataset") or {}).get("label")
    found = _replaced(config, "") if label == SPEAKER else dict(config)
    task = dict(found.get("task") or {})
    if task.get("requests") is not None and not _is_open(task, label):
        task["requests"] = "REQUESTS"
    if task.get("after") and not all(isinstance(each, Mapping) and _is_open(each, label) for each in task["after"]):
        task["after"] = "EARLIER"
    return {**found, "task": task} if task else found


def _replaced(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = {}
    for name, value in config.items():
        here = f"{path}.{name}".lstrip(".")
        word = CLASSES.get(here) if value is not None else None
        found[name] = word or (_replaced(value, here) if isinstance(value, Mapping) else value)
    return found


def _is_open(task: Mapping[str, Any], label: Any) -> bool:
    """Return whether a request names nobody: words, or a share that is drawn."""
    return task.get("by") == "random" or (task.get("kind") == "class" and label != SPEAKER)


@functools.cache
def _defaults(choices: tuple[str, ...]) -> Mapping[str, Any] | None:
    """Compose the config of some choices; None if one of them does not exist here."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            found: Any = OmegaConf.to_container(compose("config", overrides=list(choices)), resolve=True)
    except HydraException:
        return None
    return dict(found)


@functools.cache
def _usual() -> frozenset[str]:
    """Return the choices that a command without words makes."""
    config = _defaults(()) or {}
    return frozenset({f"task={config['task']['kind']}", *(f"{group}={config[group]['name']}" for group in GROUPS)})


def _changed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each leaf that differs from the default, with + in front of a new one."""
    before, now = dict(_leaves(defaults)), dict(_leaves(config))
    for path, value in now.items():
        if path not in before:
            yield f"+{path}", value
        elif before[path] != value:
            yield path, value


def _removed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """List the leaves of the defaults that neither exist in the config nor have anything above or below them there."""
    now = [path for path, _ in _leaves(config)]
    gone = {path for path, _ in _leaves(defaults)} - set(now)
    return sorted(path for path in gone if not any(f"{each}.".startswith(f"{path}.") for each in now))


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        here = f"{path}.{name}".lstrip(".")
        if not here.startswith(LEFT_OUT):
            if isinstance(item, Mapping) and item:
                yield from _leaves(item, here)
            else:
                yield here, item


def _shown(path: str, value: Any) -> str:
    return word if (word := word_for(path, value)) else _written(value)


def word_for(path: str, value: Any) -> str | None:
    """Return the word in capitals that stands for a value, if it is a path or may name people."""
    if path in HIDDEN and value is not None:
        return HIDDEN[path]
    return "PATH" if isinstance(value, str) and value.startswith(("/", "~")) else None


def _written(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and not NOT_TEXT.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
