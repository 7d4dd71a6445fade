"""SalUn: random labels, but only the weights that matter for forget may move.

Fan, Liu, Zhang, Wong, Wei & Liu, "SalUn: empowering machine unlearning via gradient-based weight saliency in both image classification and
generation", ICLR 2024.

    s = | sum over forget batches of the gradient of -l at theta_o |,   m = 1 on the largest floor(q * P) of all P entries of s, else 0
    theta_u = m * (theta_o + delta) + (1 - m) * theta_o,   delta from random labels (`random_label.py`)

| symbol | argument                                                                                                       |
|--------|----------------------------------------------------------------------------------------------------------------|
| l      | cross-entropy with the true labels, mean over a batch of `mask_batch_size`, the original in evaluation mode    |
| q      | `mask_share`, ranked over all parameters together, biases and batch-norm's weights included                    |
| delta  | all of RandomLabel's arguments                                                                                 |

The mask is hard: gradients are masked, and after each step masked entries get their original value back, since weight decay and momentum move
them too (the public code let them, until February 2026, and the published numbers come from that). Running statistics are no weights and follow
the batch-norm mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.methods.common.importance import batch_gradient, pieces
from speechforget.methods.common.losses import cross_entropy
from speechforget.methods.random_label import RandomLabel


class SalUn(Method):
    """A mask from one pass over forget, then RandomLabel (held, not inherited) under that mask."""

    mask: Tensor
    start: Tensor

    def __init__(self, mask_share: float, mask_batch_size: int, **relabel: Any) -> None:
        labelling = RandomLabel(**relabel)
        super().__init__(labelling.optimizer, labelling.clip)
        if not 0 < mask_share <= 1:
            raise UserError(
                f"mask_share is the share of weights that may move, above 0 and at most 1, not {mask_share}."
            )
        self.relabel, self.mask_share, self.mask_batch_size = labelling, mask_share, mask_batch_size

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The mask, and the values that masked weights keep; both flat, in the order of `parameters()`."""
        self.relabel.curriculum = self.curriculum
        self.relabel.prepare(student, context)
        scores = saliency(context, self.mask_batch_size)
        movable = torch.cat(
            [torch.full((parameter.numel(),), parameter.requires_grad) for parameter in context.original.parameters()]
        )
        mask = movable.to(scores.device)  # frozen weights are no part of the share: they move in no case
        mask[mask.clone()] = top(scores[mask], self.mask_share)
        self.register_buffer("mask", mask)
        self.register_buffer("start", parameters_to_vector(context.original.parameters()).detach().clone())

    def passes(self) -> Sequence[Pass]:
        """RandomLabel's."""
        return self.relabel.passes()

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """RandomLabel's."""
        return self.relabel.loss(student, batch, current)

    def after_backward(self, student: nn.Module) -> None:
        """Masked weights get no gradient."""
        for parameter, mask, _ in self._parts(student):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0.0)

    def after_step(self, student: nn.Module) -> None:
        """Masked weights get their value back."""
        for parameter, mask, start in self._parts(student):
            parameter.copy_(torch.where(mask, parameter, start))

    def _parts(self, student: nn.Module) -> Iterable[tuple[nn.Parameter, Tensor, Tensor]]:
        """Each parameter with its piece of the mask and of the start, in its shape."""
        parameters = list(student.parameters())
        return zip(parameters, pieces(self.mask, parameters), pieces(self.start, parameters), strict=True)


def saliency(context: Context, batch_size: int) -> Tensor:
    """|sum over forget batches of the gradient of the mean cross-entropy|, flat, (parameters,); the sign of the loss does not matter.

    The gradients are summed with their signs before the absolute value, so opposite ones cancel; unlike a Fisher information.
    """
    model = copy.deepcopy(context.original).eval().requires_grad_(True)
    parameters = list(model.parameters())

    def gradient(batch: Batch) -> Tensor:
        return batch_gradient(model, parameters, batch, cross_entropy)

    return context.total(
        "forget", batch_size, gradient, torch.zeros_like(parameters_to_vector(parameters).detach())
    ).abs()


def top(scores: Tensor, share: float) -> Tensor:
    """True on exactly floor(share * n) of the n scores, the largest; of equal ones the first."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[torch.argsort(scores, descending=True, stable=True)[: math.floor(share * len(scores))]] = True
    return mask
