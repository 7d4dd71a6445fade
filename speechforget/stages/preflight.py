"""Build everything that a run needs before the first stage starts, so that a mistake shows at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from speechforget.errors import UserError
from speechforget.models.folder import build_classifier
from speechforget.models.lora import adapt
from speechforget.optimizers import make_optimizer
from speechforget.stages.sources import build_augment
from speechforget.stages.unlearn import build_method


def rehearse(config: Mapping[str, Any]) -> None:
    """Builds what a run will need, so that a mistake in the numbers of its last stage shows before the first one is trained."""
    stand_in = [nn.Parameter(torch.zeros(1))]
    make_optimizer(stand_in, config["train"]["optimizer"], 1.0)
    method = build_method(config["method"])
    make_optimizer(stand_in, method.optimizer, 1.0)
    build_augment(config["train"]["augment"])
    classifier = rehearse_classifier(config["model"], config["dataset"]["sample_rate"])
    adapt(classifier, method.trainable)
    if config["dataset"]["lengths"] == "bucketed" and getattr(classifier, "padding_counts", False):
        name = config["model"]["name"]
        raise UserError(
            f"What model={name} answers depends on the silence that fills a batch up: use dataset.lengths=fixed, or another model."
        )
    if config["train"]["margin"] and not hasattr(classifier.head, "scale"):
        raise UserError(
            f"train.margin is for models whose head measures cosines, such as model=ecapa_tdnn, not {config['model']['name']}: set it to 0."
        )


def rehearse_classifier(model: Mapping[str, Any], sample_rate: int) -> nn.Module:
    """Builds a classifier, one that takes pretrained weights without them and without memory: they can be gigabytes."""
    if "pretrained" not in model:
        return build_classifier(model, 2, sample_rate)
    random = {"pretrained": None, "head": "new"}
    with torch.device("meta"):
        return build_classifier({name: random.get(name, value) for name, value in model.items()}, 2, sample_rate)
