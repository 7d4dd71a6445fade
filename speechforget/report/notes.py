"""What every table must say of where its models come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.oracle import has_oracle
from speechforget.models.checkpoint import Checkpoint


def notes(config: Mapping[str, Any], checkpoint: Checkpoint | None) -> list[str]:
    """What every table must say of where its models come from."""
    found = []
    if checkpoint is not None:
        found.append(
            "The original is the user's checkpoint: whether it heard the holdout is not known, so membership columns hold only if it did not; "
            "the same goes for test."
        )
        if has_oracle(config):
            found.append(
                "The oracle was trained with this run's recipe: gaps to it hold as far as that is the checkpoint's."
            )
    if (start := _pretrained(config, checkpoint)) is not None:
        found.append(f"{start}: what pre-training knows of the forget utterances was not unlearned.")
    return found


def _pretrained(config: Mapping[str, Any], checkpoint: Checkpoint | None) -> str | None:
    """Which models start from which pretrained weights, as far as that is known."""
    model = config["model"]
    name = model.get("bundle") if model.get("pretrained") is True else model.get("pretrained")
    if checkpoint is None:
        who = "Original and oracle start from the same" if has_oracle(config) else "The original starts from"
        return f"{who} pretrained weights ({name})" if name else None
    oracle = f", and the oracle from {name}" if has_oracle(config) and name else ""
    if checkpoint.kind == "hugging face":
        return f"The original starts from pretrained weights ({checkpoint.model.get('model_type')}, fine-tuned by the user){oracle}"
    return (
        f"The original, a {model['name']}, may start from pretrained weights{oracle}" if "pretrained" in model else None
    )
