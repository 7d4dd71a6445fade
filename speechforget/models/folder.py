"""A model folder: `model.json` says how to build the classifier, `weights.safetensors` holds its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from speechforget.config.instantiate import instantiate_target
from speechforget.distributed import collectives
from speechforget.distributed.batch_norm import globalised
from speechforget.distributed.dropout import by_utterance
from speechforget.errors import UserError
from speechforget.models.pretrained import fetched
from speechforget.store import write_json


def build_classifier(model: Mapping[str, Any], classes: int, sample_rate: int) -> nn.Module:
    """A classifier with fresh weights (from torch's global generator), but for those that its config says are pretrained.

    Raises UserError for options that the model does not take.
    """
    options = fetched({name: value for name, value in model.items() if name != "name"})
    classifier = by_utterance(instantiate_target(options, "model", classes=classes, sample_rate=sample_rate))
    return globalised(classifier) if collectives.world() > 1 else classifier


def save_classifier(folder: Path, classifier: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes weights and description (model, labels, sample_rate, seconds).

    A classifier can say in `rebuilt_with` by which options it is built again where those it was built with no longer hold: a checkpoint may be gone.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    temporary = folder / "weights.partial"
    save_file(weights, temporary)
    temporary.replace(folder / "weights.safetensors")
    model = {**description["model"], **getattr(classifier, "rebuilt_with", {})}
    write_json(folder / "model.json", {**description, "model": model})


def load_classifier(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier of a model folder in evaluation mode, and its description."""
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except Exception as error:
        raise UserError(f"{folder} holds no readable model ({error}): remove it and run again.") from error
    classifier = build_classifier(description["model"], len(description["labels"]), description["sample_rate"])
    classifier.load_state_dict(weights)
    return classifier.eval(), description
