"""What can be said of a config before anything is made: numbers that are numbers, shares that are shares, names that exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.errors import UserError, nearest

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for the first thing in the config that cannot be right."""
    whole(config, "seed", 0)
    whole(config["task"], "seed", 0, "task.")
    check_dataset(config["dataset"])
    check_train(config["train"])
    check_trainer(config["trainer"])
    choice(config, "lock", ("flock", "lease"))
    if config["only"] is not None:
        choice(config, "only", ("original", "oracle"))


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """The keys that every corpus has."""
    whole(dataset, "sample_rate", 1000, "dataset.")
    number(dataset, "seconds", 0.01, 600, "dataset.")
    number(dataset, "validation", 0, 0.9, "dataset.")
    number(dataset, "holdout", 0, 0.9, "dataset.")
    whole(dataset, "split_seed", 0, "dataset.")
    choice(dataset, "copies", ("include", "ignore"), "dataset.")
    choice(dataset, "on_bad_audio", ("error", "skip"), "dataset.")


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
    whole(trainer, "devices", 1, "trainer.")
    whole(trainer, "nodes", 1, "trainer.")


def choice(options: Mapping[str, Any], name: str, known: tuple[str, ...], prefix: str = "") -> None:
    """One of some words."""
    if options[name] not in known:
        raise UserError(f"There is no {prefix}{name}={options[name]}: {nearest(str(options[name]), known)}")


def whole(options: Mapping[str, Any], name: str, low: int, prefix: str = "") -> None:
    """A whole number of at least `low`."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{prefix}{name} must be a whole number of at least {low}, not {value!r}.")


def number(options: Mapping[str, Any], name: str, low: float, high: float, prefix: str = "") -> None:
    """A number from `low` to `high`."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{prefix}{name} must be a number from {low:g} to {high:g}, not {value!r}.")
