"""Make optimisers by name, for training and for methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from speechforget.errors import UserError, nearest

KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def make_optimizer(
    parameters: Iterable[nn.Parameter], options: Mapping[str, Any], learning_rate: float
) -> torch.optim.Optimizer:
    """Make an optimiser. options: its `name` (sgd, adam, adamw) and torch's arguments (momentum, weight_decay ...).

    Raises UserError for an unknown name or argument.
    """
    arguments = dict(options)
    name = str(arguments.pop("name"))
    if name not in KINDS:
        raise UserError(f"Unknown optimizer '{name}': {nearest(name, KINDS)}")
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if all(parameter.device.type == "cpu" for parameter in trainable):
        # One loop in C++ over all weights saves a tenth of a small model's step; the default on a GPU is as fast.
        arguments.setdefault("fused", True)
    try:
        return KINDS[name](trainable, lr=learning_rate, **arguments)  # type: ignore[call-arg]
    except TypeError as error:
        raise UserError(f"The optimizer '{name}' does not take these options: {error}") from error
