"""Reset the last k layers to random weights and train them on retain, with the other layers frozen.

EU-k (exact unlearning of the last k layers): Goel, Prabhu, Sanyal, Lim, Torr & Kumaraguru, "Towards adversarial
evaluations for inexact machine unlearning", 2022 (arXiv 2201.06640).

    theta_k <- random;   min over theta_k, the last k layers, of  E_{D_r} l(x, y; theta)

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| k      | `k`: entries of the classifier's `layers()`, counted from the head backwards, that contain more than a    |
|        | normalisation                                                                                             |
| random | the architecture's own start (`context.fresh`); with `reset_norms`, also normalisations and their running |
|        | statistics                                                                                                |
| l      | cross-entropy in nats, mean over the batch                                                                |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`; the paper's schedule is `restarts`             |

The retrained last layers know nothing of forget, at about the cost of the original training. The frozen layers still
know what they knew. As in the public code, normalisations between the last k layers are trained and, by default, not
reset. They keep what they learned of forget a little longer.

Differences: the public code draws by He's rule with zero biases. Here the architecture's own initialisation is used.
SCRUB's code restores the original's own first weights instead, which is another baseline. The differences listed in
`cf_k.py` apply here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import BatchNorm, Context
from speechforget.methods.common.layers import NORMS, freeze_all_but, last_layers, own_weights, refuse_low_rank


class EUk(Epochs):
    """Reset the last layers and train them on retain."""

    needs = frozenset({"retain"})

    def __init__(
        self, k: int, reset_norms: bool = False, frozen_batch_norm: BatchNorm = "frozen", **epochs: Any
    ) -> None:
        super().__init__(**epochs)
        self.k, self.reset_norms, self.frozen_batch_norm = k, reset_norms, frozen_batch_norm

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Freeze all but the last k layers, and give these random weights."""
        refuse_low_rank(self.trainable, "EU-k")
        layers = last_layers(student, self.k)
        freeze_all_but(student, layers)
        reset_layers(student, context.fresh(), layers, self.reset_norms)


@torch.no_grad()
def reset_layers(student: nn.Module, fresh: nn.Module, layers: Sequence[nn.Module], norms: bool) -> None:
    """Copy the weights of an untrained classifier into the student's layers, except frozen weights.

    norms: whether to reset normalisations too, both weights and running statistics.
    """
    inside = {
        id(weight)
        for layer in layers
        for weight in (layer.parameters() if norms else own_weights(layer))
        if weight.requires_grad
    }
    for name, weight in student.named_parameters():
        if id(weight) in inside:
            weight.copy_(fresh.get_parameter(name))
    if norms:
        held = {module for layer in layers for module in layer.modules()}
        for name, module in student.named_modules():
            if (
                isinstance(module, NORMS)
                and module in held
                and any(weight.requires_grad for weight in module.parameters())
            ):
                module.load_state_dict(fresh.get_submodule(name).state_dict())
