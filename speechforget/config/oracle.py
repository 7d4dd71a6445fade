"""Decide whether a run trains an oracle, say why it does not, and which model it delivers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.store.files import read_json


def root_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the run that trained or imported the first original, before any request."""
    while (result := (config.get("original") or {}).get("result")) is not None:
        before = read_json(Path(str(result)).expanduser() / "about.json").get("config")
        if not before:
            break
        config = before
    return config


def from_checkpoint(config: Mapping[str, Any]) -> bool:
    """Return whether the first original is a checkpoint of the user, so that its recipe is not known."""
    return root_of(config)["original"]["checkpoint"] is not None


def has_oracle(config: Mapping[str, Any]) -> bool:
    """Return whether a run trains an oracle; `oracle=auto` does if the recipe of the original is known."""
    return config["oracle"] == "train" or (config["oracle"] == "auto" and not from_checkpoint(config))


def delivered_by(config: Mapping[str, Any]) -> str:
    """Return which model a run delivers; configs that older code recorded do not say it."""
    return str(config.get("deliver", "unlearned"))


def why_no_oracle(config: Mapping[str, Any]) -> str | None:
    """Return a sentence for readers of a result without an oracle; None where there is one."""
    if has_oracle(config):
        return None
    consequence = "so nothing here shows what perfect forgetting would give, and there are no gaps"
    if not from_checkpoint(config):
        return f"No oracle: oracle=none was set, {consequence}. oracle=auto trains one."
    return (
        f"No oracle: the recipe of the original, a checkpoint, is not known, {consequence}. "
        "oracle=train trains one with the recipe train=..."
    )
