"""Caveats that follow from where a run's models come from: a user's checkpoint, or pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.oracle import delivered_by, from_checkpoint, has_oracle
from speechforget.models.checkpoint import Checkpoint


def caveats(config: Mapping[str, Any], checkpoint: Checkpoint | None) -> list[str]:
    """Write the sentences that every table of the run must carry about the source of its models."""
    found = []
    if from_checkpoint(config):
        found.append(
            "The original is the user's checkpoint: its training set is not known, so membership columns are valid "
            "only if it was not trained on the holdout, and test columns only if it was not trained on test."
        )
        if has_oracle(config):
            found.append(
                "The oracle was trained with this run's recipe: gaps to it are valid only if the checkpoint was "
                "trained with the same recipe."
            )
    if (start := _pretrained(config, checkpoint)) is not None:
        found.append(f"{start}: what pre-training learned of the forget utterances was not unlearned.")
    return found


def delivery(config: Mapping[str, Any]) -> list[str]:
    """Say which model is delivered, if it is not the unlearned one."""
    if delivered_by(config) != "oracle":
        return []
    return [
        "Delivered: the oracle, which was trained from scratch without the forgotten recordings. The verdict is about "
        "the unlearned model, which is not delivered."
    ]


def _pretrained(config: Mapping[str, Any], checkpoint: Checkpoint | None) -> str | None:
    """Say which models start from which pretrained weights; None if none do, or it is not known."""
    model = config["model"]
    name = model.get("bundle") if model.get("pretrained") is True else model.get("pretrained")
    if checkpoint is None:
        who = "Original and oracle start from the same" if has_oracle(config) else "The original starts from"
        return f"{who} pretrained weights ({name})" if name else None
    oracle = f", and the oracle from {name}" if has_oracle(config) and name else ""
    if checkpoint.kind == "hugging face":
        kind = checkpoint.model.get("model_type")
        return f"The original starts from pretrained weights ({kind}, fine-tuned by the user){oracle}"
    return (
        f"The original, a {model['name']}, may start from pretrained weights{oracle}" if "pretrained" in model else None
    )
