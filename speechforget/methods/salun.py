"""Train on random labels, but change only the weights that matter most to forget.

SalUn: Fan, Liu, Zhang, Wong, Wei & Liu, "SalUn: empowering machine unlearning via gradient-based weight saliency in
both image classification and generation", ICLR 2024.

    s = | sum over forget batches of the gradient of -l at theta_o |
    m = 1 on the largest floor(q * P) of all P entries of s, else 0
    theta_u = m * (theta_o + delta) + (1 - m) * theta_o,   delta from random labels (`random_label.py`)

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| l      | cross-entropy with the true labels, mean over a batch of `mask_batch_size`, of the original in evaluation |
|        | mode                                                                                                      |
| q      | `mask_share`, ranked over all parameters together, biases and batch-norm weights included                 |
| delta  | change by RandomLabel, with all of its arguments                                                          |

The mask is hard: gradients are masked, and after each step masked weights get their original value back. Otherwise
weight decay and momentum would change them. Running statistics are not weights and follow the batch-norm mode.

Difference: until February 2026, the public code let weight decay and momentum change masked weights. The published
numbers come from that code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.methods.common.importance import batch_gradient, pieces, top
from speechforget.methods.common.losses import cross_entropy
from speechforget.methods.random_label import RandomLabel


class SalUn(Method):
    """Compute a mask in one pass over forget, then run RandomLabel (held, not inherited) under that mask."""

    mask: Tensor
    start: Tensor

    def __init__(self, mask_share: float, mask_batch_size: int, **relabel: Any) -> None:
        labelling = RandomLabel(**relabel)
        super().__init__(labelling.optimizer, labelling.clip)
        if not 0 < mask_share <= 1:
            raise UserError(
                f"mask_share is the share of weights that may change, above 0 and at most 1, not {mask_share}."
            )
        self.relabel, self.mask_share, self.mask_batch_size = labelling, mask_share, mask_batch_size

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Compute the mask and store the values of masked weights, both flat in the order of `parameters()`."""
        self.relabel.curriculum = self.curriculum
        self.relabel.prepare(student, context)
        scores = saliency(context, self.mask_batch_size)
        movable = torch.cat(
            [torch.full((parameter.numel(),), parameter.requires_grad) for parameter in context.original.parameters()]
        )
        mask = movable.to(scores.device)  # frozen weights never change, so the share does not count them
        mask[mask.clone()] = top(scores[mask], self.mask_share)
        self.register_buffer("mask", mask)
        self.register_buffer("start", parameters_to_vector(context.original.parameters()).detach().clone())

    def passes(self) -> Sequence[Pass]:
        """Return RandomLabel's passes."""
        return self.relabel.passes()

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute RandomLabel's loss."""
        return self.relabel.loss(student, batch, current)

    def after_backward(self, student: nn.Module) -> None:
        """Set the gradients of masked weights to zero."""
        for parameter, mask, _ in self._parts(student):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0.0)

    def after_step(self, student: nn.Module) -> None:
        """Restore the values of masked weights."""
        for parameter, mask, start in self._parts(student):
            parameter.copy_(torch.where(mask, parameter, start))

    def _parts(self, student: nn.Module) -> Iterable[tuple[nn.Parameter, Tensor, Tensor]]:
        """Pair each parameter with its part of the mask and of the start values, in its shape."""
        parameters = list(student.parameters())
        return zip(parameters, pieces(self.mask, parameters), pieces(self.start, parameters), strict=True)


def saliency(context: Context, batch_size: int) -> Tensor:
    """Compute |sum over forget batches of the gradient of the mean cross-entropy|, flat, (parameters,).

    The gradients are summed with their signs, so opposite ones cancel, unlike in a Fisher information. The sign of the
    loss does not matter.
    """
    model = copy.deepcopy(context.original).eval().requires_grad_(True)
    parameters = list(model.parameters())

    def gradient(batch: Batch) -> Tensor:
        return batch_gradient(model, parameters, batch, cross_entropy)

    return context.total(
        "forget", batch_size, gradient, torch.zeros_like(parameters_to_vector(parameters).detach())
    ).abs()
