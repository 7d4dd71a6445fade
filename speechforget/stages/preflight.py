"""Build the parts of a run before its first stage starts, so that a mistake shows at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from speechforget.config.instantiate import instantiate_target
from speechforget.errors import UserError
from speechforget.models.folder import build_classifier
from speechforget.models.lora import adapt
from speechforget.optimizers import make_optimizer
from speechforget.stages.sources import build_augment
from speechforget.stages.unlearn import build_method


def preflight(config: Mapping[str, Any]) -> None:
    """Build optimisers, method, augmentation, attacks and classifier once, and discard them.

    Raises UserError for a wrong number of any stage, before the first model is trained.
    """
    stand_in = [nn.Parameter(torch.zeros(1))]
    make_optimizer(stand_in, config["train"]["optimizer"], 1.0)
    method = build_method(config["method"])
    make_optimizer(stand_in, method.optimizer, 1.0)
    build_augment(config["train"]["augment"])
    for options in config["evaluation"]["attacks"]:
        if not isinstance(options, Mapping) or "_target_" not in options:
            raise UserError(f"evaluation.attacks contains {options!r}: give each attack a _target_, its class.")
        instantiate_target(options, "evaluation.attacks")
    classifier = build_without_weights(config["model"], config["dataset"]["sample_rate"])
    adapt(classifier, method.trainable)
    if config["dataset"]["lengths"] == "bucketed" and getattr(classifier, "padding_counts", False):
        name = config["model"]["name"]
        raise UserError(
            f"Outputs of model={name} depend on the padding of a batch: use dataset.lengths=fixed, or another model."
        )
    if config["train"]["margin"] and not hasattr(classifier.head, "scale"):
        raise UserError(
            "train.margin needs a model with a cosine head, such as model=ecapa_tdnn, "
            f"and {config['model']['name']} has none: set train.margin=0."
        )


def build_without_weights(model: Mapping[str, Any], sample_rate: int) -> nn.Module:
    """Build a classifier; one with pretrained weights gets no weights and no memory, since they can be gigabytes."""
    if "pretrained" not in model:
        return build_classifier(model, 2, sample_rate)
    random = {"pretrained": None, "head": "new"}
    with torch.device("meta"):
        return build_classifier({name: random.get(name, value) for name, value in model.items()}, 2, sample_rate)
