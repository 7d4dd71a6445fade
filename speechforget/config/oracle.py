"""Whether a run trains an oracle, and what every table must say of where its models come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def has_oracle(config: Mapping[str, Any]) -> bool:
    """Whether a run trains an oracle; `auto` does where the original's recipe is known."""
    return config["oracle"] == "train" or (config["oracle"] == "auto" and config["original"]["checkpoint"] is None)


def why_no_oracle(config: Mapping[str, Any]) -> str | None:
    """A sentence for readers; None where there is an oracle."""
    if has_oracle(config):
        return None
    consequence = "so nothing here says what perfect forgetting would give, and there are no gaps"
    if config["original"]["checkpoint"] is None:
        return f"No oracle: none was asked for (oracle=none), {consequence}. oracle=auto trains one."
    return f"No oracle: the recipe of the original, a checkpoint, is not known, {consequence}. oracle=train trains one with the recipe train=..."
