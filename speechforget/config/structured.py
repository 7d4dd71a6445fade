"""Check what structured training allows: rewinding to kept epochs, and ensembles of shards and slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.ranges import is_whole
from speechforget.errors import NotApplicable, UserError

REWIND = "speechforget.methods.rewind.Rewind"


def rewinds(config: Mapping[str, Any]) -> bool:
    """Return whether the method goes back in the original's training."""
    return str(config["method"]["_target_"]) == REWIND


def rewound_to(config: Mapping[str, Any]) -> int:
    """Return the epoch of the original's training from which a method that rewinds starts."""
    return int(config["train"]["epochs"]) - int(config["method"]["epochs_back"])


def kept_epochs(config: Mapping[str, Any]) -> list[int]:
    """Return the epochs of the original's training whose states a run keeps, ascending: asked for, or rewound to."""
    return sorted({*config["original"]["keep_epochs"], *([rewound_to(config)] if rewinds(config) else [])})


def check_kept_epochs(config: Mapping[str, Any]) -> None:
    """Raise UserError for epochs that the recipe does not have."""
    asked, epochs = config["original"]["keep_epochs"], config["train"]["epochs"]
    if not isinstance(asked, list | tuple) or not all(is_whole(one) and 0 <= one < epochs for one in asked):
        raise UserError(
            f"original.keep_epochs must be a list of epochs from 0 to {epochs - 1}, as train.epochs={epochs}, "
            f"not {asked!r}."
        )
    if asked and config["original"]["checkpoint"] is not None:
        raise NotApplicable(
            "original.keep_epochs has no effect with original.checkpoint, whose training is over: set it to []."
        )


def check_method_fits(config: Mapping[str, Any]) -> None:
    """Raise NotApplicable for a method that needs another training of the original, UserError for a wrong number."""
    if not rewinds(config):
        return
    if config["original"]["checkpoint"] is not None:
        raise NotApplicable(
            "The method rewind goes back to an earlier epoch of the original, and original.checkpoint has only its "
            "last one: train the original here, or choose another method."
        )
    back, epochs = config["method"]["epochs_back"], config["train"]["epochs"]
    if not is_whole(back) or not 1 <= back <= epochs:
        raise UserError(
            f"method.epochs_back must be a whole number from 1 to {epochs}, as train.epochs={epochs}, not {back!r}."
        )
