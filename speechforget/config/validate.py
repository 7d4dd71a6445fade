"""What can be said of a config before anything is made: numbers that are numbers, shares that are shares, names that exist."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from speechforget.config.oracle import has_oracle
from speechforget.config.seconds import AUTO, LONGEST
from speechforget.data.requests.options import WAYS, counting, unused
from speechforget.errors import NotApplicable, UserError, nearest

WITHOUT_CURRICULUM = {"curriculum_on": "both", "curriculum_strength": 10.0}  # as conf/config.yaml has them
SHARES = {"test"}  # of a corpus's options, those that are shares of its recordings
PRECISIONS = ("32-true", "tf32-true", "64-true", "bf16-mixed", "16-mixed")


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for the first thing in the config that cannot be right; NotApplicable for a key that does not count beside the others."""
    check_places(config)
    if not isinstance(config["plan"], bool):
        raise UserError(f"plan must be true or false, not {config['plan']!r}.")
    whole(config, "seed", 0)
    whole(config["task"], "seed", 0, "task.")
    check_task(config)
    check_method(config["method"])
    check_dataset(config["dataset"])
    check_train(config["train"])
    check_trainer(config["trainer"])
    choice(config, "lock", ("flock", "lease"))
    check_origin(config)


def check_places(config: Mapping[str, Any]) -> None:
    """Where things are written: an empty name would be the current folder, or with what is added to it the system's root."""
    for name in ("output", "cache"):
        if not isinstance(config[name], str) or not config[name].strip():
            raise UserError(f"{name} must be the name of a folder, not {config[name]!r}.")


def check_task(config: Mapping[str, Any]) -> None:
    """A key of the task that is set though it decides nothing would look as if it did."""
    task = config["task"]
    if task["kind"] not in ("class", "sample"):
        return  # who reads the request says what there is
    if "balanced" in task:
        choice(task, "balanced", (True, False), "task.")
    for name, default in unused(config).items():
        keys = counting(task)
        asked = (
            "task=class"
            if task["kind"] == "class"
            else f"task.by={task['by']}{'' if (task['kind'], task['by']) in WAYS else ', a column,'}"
        )
        beside = f"{asked} and task.{keys[0]}" if task["kind"] == "class" or keys[0] == "values" else asked
        *others, last = (f"task.{key}" for key in keys)
        do = f"{', '.join(others)} and {last} do" if others else f"{last} does"
        raise NotApplicable(f"task.{name} does not count with {beside}: {do}. Leave it at {_yaml(default)}.")


def check_method(method: Mapping[str, Any]) -> None:
    """What a switch would do that is off."""
    for name, default in WITHOUT_CURRICULUM.items():
        if method.get("curriculum") is None and method.get(name, default) != default:
            raise NotApplicable(
                f"method.{name} does not count without a curriculum: set method.curriculum=superloss, or leave it at {default}."
            )


def check_origin(config: Mapping[str, Any]) -> None:
    """Where the original comes from, and whether there is an oracle."""
    choice(config, "oracle", ("auto", "train", "none"))
    checkpoint, labels = config["original"]["checkpoint"], config["original"]["labels"]
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise UserError(f"original.checkpoint must be a folder, not {checkpoint!r}.")
    if labels is not None and checkpoint is None:
        raise UserError("original.labels names the outputs of original.checkpoint: set that, too.")
    if not isinstance(labels, (list, dict, type(None))):
        raise UserError(
            f"original.labels must be a list of names or a mapping of the checkpoint's names to the corpus's, not {labels!r}."
        )
    if config["only"] is not None:
        choice(config, "only", ("original", "oracle"))
    if config["only"] == "oracle" and not has_oracle(config):
        raise UserError("only=oracle asks for what this run does not have: set oracle=train, too.")


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """The keys that every corpus has."""
    whole(dataset, "sample_rate", 1000, "dataset.")
    if dataset["seconds"] != AUTO:
        number(dataset, "seconds", 0.01, LONGEST, "dataset.", f", or {AUTO}")
    number(dataset, "validation", 0, 0.9, "dataset.")
    number(dataset, "holdout", 0, 0.9, "dataset.")
    whole(dataset, "split_seed", 0, "dataset.")
    whole(dataset, "windows", 1, "dataset.")
    choice(dataset, "lengths", ("fixed", "bucketed"), "dataset.")
    choice(dataset, "cache", ("decoded", "none"), "dataset.")
    choice(dataset, "resident", ("host", "device"), "dataset.")
    choice(dataset, "copies", ("include", "ignore"), "dataset.")
    choice(dataset, "on_bad_audio", ("error", "skip"), "dataset.")
    check_corpus(dataset)


def check_corpus(dataset: Mapping[str, Any]) -> None:
    """The options of this corpus; an experiment can bring some that are another one's."""
    module, _, function = str(dataset["corpus"]["_target_"]).rpartition(".")
    try:
        known = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    except (ImportError, ValueError, AttributeError):  # who calls it says what is wrong
        return
    unknown = sorted(set(dataset["corpus"]) - {"_target_", *known})
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        there = nearest(unknown[0], set(known) - {"root", "label", "cache"})
        raise UserError(
            f"The dataset {dataset['name']} has no option dataset.corpus.{unknown[0]}: {there}; an experiment that sets it is for another dataset."
        )
    for name in SHARES & set(dataset["corpus"]) if module.startswith("speechforget.") else ():
        number(dataset["corpus"], name, 0, 1, "dataset.corpus.")


def check_train(train: Mapping[str, Any]) -> None:
    """The recipe of original and oracle."""
    whole(train, "epochs", 1, "train.")
    whole(train, "batch_size", 1, "train.")
    number(train, "learning_rate", 0, 100, "train.")
    number(train, "warmup", 0, 1e6, "train.")
    number(train, "label_smoothing", 0, 0.99, "train.")
    number(train, "margin", 0, 1, "train.")
    choice(train, "schedule", ("cosine", "linear", "constant"), "train.")


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """The hardware."""
    choice(trainer, "accelerator", ("cpu", "gpu"), "trainer.")
    choice(trainer, "precision", PRECISIONS, "trainer.")
    whole(trainer, "threads", 1, "trainer.")
    choice(trainer, "compile", (True, False), "trainer.")
    whole(trainer, "devices", 1, "trainer.")
    whole(trainer, "nodes", 1, "trainer.")


def _yaml(value: Any) -> str:
    """As it is written on the command line."""
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, (bool, type(None)))
        else str(value)
    )


def choice(options: Mapping[str, Any], name: str, known: tuple[Any, ...], prefix: str = "") -> None:
    """One of some values."""
    if options[name] not in known:
        raise UserError(f"There is no {prefix}{name}={options[name]}: {nearest(str(options[name]), known)}")


def whole(options: Mapping[str, Any], name: str, low: int, prefix: str = "") -> None:
    """A whole number of at least `low`."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{prefix}{name} must be a whole number of at least {low}, not {value!r}.")


def number(options: Mapping[str, Any], name: str, low: float, high: float, prefix: str = "", more: str = "") -> None:
    """A number from `low` to `high`. more: what else it may be, for the sentence."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{prefix}{name} must be a number from {low:g} to {high:g}{more}, not {value!r}.")
