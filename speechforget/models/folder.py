"""Build, save and load a classifier: `model.json` describes it, `weights.safetensors` holds its weights."""

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
from speechforget.models.ensemble import Ensemble
from speechforget.models.erased import ERASER, insert_eraser
from speechforget.models.pretrained import fetched
from speechforget.store import write_json


def build_classifier(model: Mapping[str, Any], classes: int, sample_rate: int) -> Any:
    """Build a classifier. Weights that are not pretrained are drawn from torch's global generator.

    model: its options; `members` makes it an ensemble of such classifiers, by the numbers of their shards; `eraser`
        puts an affine map of that width before its head.
    Raises UserError for options that the model does not take.
    """
    if "members" in model:
        member = {name: value for name, value in model.items() if name != "members"}
        return Ensemble({number: build_classifier(member, classes, sample_rate) for number in model["members"]})
    options = fetched({name: value for name, value in model.items() if name not in ("name", "labels", ERASER)})
    classifier = by_utterance(instantiate_target(options, "model", classes=classes, sample_rate=sample_rate))
    if ERASER in model:
        insert_eraser(classifier, model[ERASER])
    return globalised(classifier) if collectives.world() > 1 else classifier


def save_classifier(folder: Path, classifier: nn.Module, description: Mapping[str, Any]) -> None:
    """Write weights and description (model, labels, sample_rate, seconds).

    A classifier's `rebuilt_with` replaces options in the description that need files of this machine, such as a
    checkpoint.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    temporary = folder / "weights.partial"
    save_file(weights, temporary)
    temporary.replace(folder / "weights.safetensors")
    model = {**description["model"], **getattr(classifier, "rebuilt_with", {})}
    write_json(folder / "model.json", {**description, "model": model})


def load_classifier(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the classifier of a model folder, in evaluation mode, and its description. Raises UserError."""
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except Exception as error:
        raise UserError(f"{folder} holds no readable model ({error}): remove it and run again.") from error
    classifier = build_classifier(description["model"], len(description["labels"]), description["sample_rate"])
    classifier.load_state_dict(weights)
    return classifier.eval(), description
