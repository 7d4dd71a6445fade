"""What can be said of a config before anything is made: numbers that are numbers, shares that are shares, names that exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.errors import UserError, nearest
from speechforget.origin import has_oracle

PRECISIONS = ("32-true", "tf32-true", "64-true", "bf16-mixed", "16-mixed")


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for the first thing in the config that cannot be right."""
    whole(config, "seed", 0)
    whole(config["task"], "seed", 0, "task.")
    check_dataset(config["dataset"])
    check_train(config["train"])
    check_trainer(config["trainer"])
    choice(config, "lock", ("flock", "lease"))
    check_origin(config)


def check_origin(config: Mapping[str, Any]) -> None:
    """Where the original comes from, and whether there is an oracle."""
    choice(config, "oracle", ("auto", "train", "none"))
    checkpoint, labels = config["original"]["checkpoint"], config["original"]["labels"]
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise UserError(f"original.checkpoint must be a folder, not {checkpoint!r}.")
    if labels is not None and checkpoint is None:
        raise UserError("original.labels names the outputs of original.checkpoint: set that, too.")
    if not isinstance(labels, (list, dict, type(None))):
        raise UserError(f"original.labels must be a list of names or a mapping of the checkpoint's names to the corpus's, not {labels!r}.")
    if config["only"] is not None:
        choice(config, "only", ("original", "oracle"))
    if config["only"] == "oracle" and not has_oracle(config):
        raise UserError("only=oracle asks for what this run does not have: set oracle=train, too.")


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """The keys that every corpus has."""
    whole(dataset, "sample_rate", 1000, "dataset.")
    number(dataset, "seconds", 0.01, 600, "dataset.")
    number(dataset, "validation", 0, 0.9, "dataset.")
    number(dataset, "holdout", 0, 0.9, "dataset.")
    whole(dataset, "split_seed", 0, "dataset.")
    whole(dataset, "windows", 1, "dataset.")
    choice(dataset, "lengths", ("fixed", "bucketed"), "dataset.")
    choice(dataset, "cache", ("decoded", "none"), "dataset.")
    choice(dataset, "resident", ("host", "device"), "dataset.")
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
    choice(trainer, "compile", (True, False), "trainer.")
    whole(trainer, "devices", 1, "trainer.")
    whole(trainer, "nodes", 1, "trainer.")


def choice(options: Mapping[str, Any], name: str, known: tuple[Any, ...], prefix: str = "") -> None:
    """One of some values."""
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
