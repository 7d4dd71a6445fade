"""Call a new classifier once, before its training, so that options that do not fit each other give one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from speechforget.errors import UserError
from speechforget.models.folder import build_classifier

OURS = "speechforget."  # a stack trace helps those who write a model of their own


def try_out(config: Mapping[str, Any]) -> None:
    """Build the classifier of a run and call it on silence. Pretrained encoders are left out: they can be gigabytes.

    Raises UserError for options of our models with which it cannot be built or called, such as an even kernel.
    """
    model, dataset = config["model"], config["dataset"]
    if "pretrained" in model or not str(model.get("_target_")).startswith(OURS):
        return
    samples = round(dataset["seconds"] * dataset["sample_rate"])
    try:
        classifier = build_classifier(model, 2, dataset["sample_rate"]).eval()
        with torch.no_grad():
            classifier(torch.zeros(1, samples), torch.full((1,), samples))
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        told = f"{type(cause).__name__}: {cause}".splitlines()[0]
        raise UserError(
            f"model={model['name']} cannot be run on {dataset['seconds']:g} s with these options ({told}): "
            "correct those that you set, or leave them at their defaults."
        ) from error
