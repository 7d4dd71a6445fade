"""Check what structured training allows: rewinding to kept epochs, and ensembles of shards and slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.ranges import choice, is_whole, whole
from speechforget.config.steps import is_continued
from speechforget.data.shards import COLUMNS, slice_epochs
from speechforget.errors import NotApplicable, UserError

REWIND, SISA, NOTHING = (f"speechforget.methods.{name}" for name in ("rewind.Rewind", "sisa.Sisa", "none.Nothing"))


def sharded(config: Mapping[str, Any]) -> bool:
    """Return whether the original is an ensemble of shards."""
    return "sisa" in config["train"]


def rewinds(config: Mapping[str, Any]) -> bool:
    """Return whether the method goes back in the original's training."""
    return str(config["method"]["_target_"]) == REWIND


def rewound_to(config: Mapping[str, Any]) -> int:
    """Return the epoch of the original's training from which a method that rewinds starts."""
    return int(config["train"]["epochs"]) - int(config["method"]["epochs_back"])


def kept_epochs(config: Mapping[str, Any]) -> list[int]:
    """Return the epochs of the original's training whose states a run keeps, ascending: asked for, or rewound to."""
    return sorted({*config["original"]["keep_epochs"], *([rewound_to(config)] if rewinds(config) else [])})


def _not_trained_here(config: Mapping[str, Any]) -> str | None:
    """Name what an original comes from that is not trained in this run; None if it is."""
    for name in ("checkpoint", "result"):
        if config["original"].get(name) is not None:
            return f"original.{name}"
    return "the model that an earlier request left" if is_continued(config) else None


def check_kept_epochs(config: Mapping[str, Any]) -> None:
    """Raise UserError for epochs that the recipe does not have."""
    asked, epochs = config["original"]["keep_epochs"], config["train"]["epochs"]
    if not isinstance(asked, list | tuple) or not all(is_whole(one) and 0 <= one < epochs for one in asked):
        raise UserError(
            f"original.keep_epochs must be a list of epochs from 0 to {epochs - 1}, as train.epochs={epochs}, "
            f"not {asked!r}."
        )
    if asked and sharded(config):
        raise NotApplicable("original.keep_epochs has no effect with train=sisa, which keeps slices: set it to [].")
    if asked and (source := _not_trained_here(config)):
        raise NotApplicable(f"original.keep_epochs has no effect with {source}, whose training is over: set it to [].")


def check_sisa(train: Mapping[str, Any]) -> None:
    """Raise UserError for shards and slices that cannot be trained."""
    if "sisa" not in train:
        return
    options, keys = train["sisa"], ("shards", "slices", "by", "seed")
    if not isinstance(options, Mapping) or set(options) != set(keys):
        raise UserError(
            f"train.sisa must have the keys {', '.join(keys)}, as in conf/train/sisa.yaml, not {options!r}."
        )
    whole(options, "shards", 1, "train.sisa.")
    whole(options, "slices", 1, "train.sisa.")
    whole(options, "seed", 0, "train.sisa.")
    choice(options, "by", tuple(COLUMNS), "train.sisa.")
    if min(slice_epochs(train["epochs"], options["slices"])) < 1:
        raise UserError(
            f"train.sisa.slices={options['slices']} leaves a slice without an epoch of train.epochs={train['epochs']}: "
            f"use at most {2 * train['epochs'] - 1} slices, or more epochs."
        )


def check_method_fits(config: Mapping[str, Any]) -> None:
    """Raise NotApplicable for a method that needs another training of the original, UserError for a wrong number."""
    _check_sharded(config)
    if not rewinds(config):
        return
    if source := _not_trained_here(config):
        raise NotApplicable(
            f"The method rewind goes back to an earlier epoch of the original, and {source} has only its last one: "
            "train the original here, or choose another method."
        )
    back, epochs = config["method"]["epochs_back"], config["train"]["epochs"]
    if not is_whole(back) or not 1 <= back <= epochs:
        # A short training is no mistake of a sweep over methods.
        raise (NotApplicable if is_whole(back) and back > epochs else UserError)(
            f"method.epochs_back must be a whole number from 1 to {epochs}, as train.epochs={epochs}, not {back!r}."
        )


def _check_sharded(config: Mapping[str, Any]) -> None:
    method, name = str(config["method"]["_target_"]), config["method"]["name"]
    if not sharded(config):
        if method == SISA:
            raise NotApplicable(
                f"The method {name} retrains shards, and the original has none: train it with train=sisa."
            )
    elif source := _not_trained_here(config):
        raise NotApplicable(f"train=sisa needs an original that is trained here, not {source}: ask for one request.")
    elif method not in (SISA, NOTHING):
        raise NotApplicable(
            f"The method {name} changes all members of an ensemble at once, so none would be free of the request by "
            "construction: use method=sisa, or another recipe than train=sisa."
        )
