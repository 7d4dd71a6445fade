"""Combine the gradients of retain and forget in each step by Nash's bargaining solution.

MUNBa: Wu & Harandi, "MUNBa: machine unlearning via Nash bargaining", ICCV 2025.

    g_r = gradient of E_{D_r} l(x, y),   g_u = gradient of E_{D_f} l(x, y'),   y' drawn wrong (`losses.random_labels`)
    step along a_r g_r + a_u g_u where  G^T G a = 1 / a,  G = [g_r, g_u]:
    a_r = 1 / (|g_r| sqrt(1 + c)),   a_u = 1 / (|g_u| sqrt(1 + c)),   c = cosine of g_r and g_u

| symbol   | meaning                                                                                               |
|----------|-------------------------------------------------------------------------------------------------------|
| y'       | drawn from (seed, epoch, utterance); with `redraw`, again in each epoch, otherwise once               |
| l        | cross-entropy in nats, mean over the batch; retain goes through the model first                       |
| fallback | the step uses l_r + `fallback` * l_u if 1 + c < `OPPOSITE` or a gradient is zero: no step is good for |
|          | both                                                                                                  |
| epoch    | joint steps while forget lasts, then steps on l_r alone; retain restarts if forget is longer          |
| clip     | bounds joint steps only: steps on l_r alone are ordinary training                                     |

The solution divides both gradients by their norms. The joint gradient always has norm sqrt(2), so a `clip` of 1 fixes
its size.

Differences from the public code:
- Its closed form divides by the inner product of the gradients plus 1e-8, which is unstable if they are orthogonal. It
  also rounds the weights to single precision. The cosine form is the same solution without either problem. Its weights
  are always positive, and only c = -1 has no solution.
- y' may be the true class there, and never is here.
- It makes a second backward pass through the weighted loss. Here the two gradients are added, because they are known
  already.
- Its SAM and l1 variants are not included.
- Its batch-norm is `train`. Here it is `frozen` by default, because forget takes part in the joint steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch, Pair
from speechforget.distributed import collectives
from speechforget.methods.base.method import BatchNorm, Context, Method, Pass
from speechforget.methods.common.losses import cross_entropy, random_labels

OPPOSITE = 1e-6


class MUNBa(Method):
    """Train on pairs of retain and forget batches; forget does not restart within an epoch."""

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        forget_batch_size: int,
        optimizer: Mapping[str, Any],
        fallback: float = 0.1,
        redraw: bool = True,
        batch_norm: BatchNorm = "frozen",
        clip: float | None = 1.0,
    ) -> None:
        super().__init__(optimizer, clip)
        self.learning_rate, self.epochs = learning_rate, epochs
        self.batch_size, self.forget_batch_size = batch_size, forget_batch_size
        self.fallback, self.redraw, self.batch_norm = fallback, redraw, batch_norm
        self.joint = False

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Store what the label draws depend on."""
        self.classes, self.forgotten, self.seed = context.classes, context.forgotten, context.seed

    def passes(self) -> Sequence[Pass]:
        """Make one pass per epoch."""
        return [self._pass(epoch) for epoch in range(self.epochs)]

    def _pass(self, epoch: int) -> Pass:
        options = (self.batch_size, self.learning_rate, self.batch_norm)
        return Pass(
            "both", *options, length="longer", forget_batch_size=self.forget_batch_size, again=False, epoch=epoch
        )

    def draw(self, batch: Batch, epoch: int) -> Tensor:
        """Draw the wrong labels of a batch in an epoch, (batch,)."""
        return random_labels(
            batch.rows, batch.labels, self.classes, self.forgotten, self.seed, epoch if self.redraw else 0
        )

    def loss(self, student: nn.Module, batch: Pair, current: Pass) -> Tensor:
        """Compute cross-entropy on retain, or in a joint step a scalar for the bargain.

        That scalar's value is the weighted loss, and its gradient is the combined gradient.
        """
        retain = self.mean(cross_entropy(student(*batch.retain.inputs).logits, batch.retain.labels), batch.retain)
        self.joint = batch.forget is not None
        if batch.forget is None:
            return retain
        labels = self.draw(batch.forget, current.epoch)
        forget = self.mean(cross_entropy(student(*batch.forget.inputs).logits, labels), batch.forget)
        return joined(student, retain, forget, self.fallback)

    def norm_allowed(self) -> float | None:
        """Return `clip` in joint steps."""
        return self.clip if self.joint else None


def joined(student: nn.Module, retain: Tensor, forget: Tensor, fallback: float) -> Tensor:
    """Combine two losses into one scalar with the bargain as its gradient, so that nothing is computed twice.

    retain, forget: this rank's parts of the losses. The result is this rank's part too, although its weights come from
    the gradients of all ranks.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    parts = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (retain, forget)]
    flat = torch.stack(
        [
            torch.cat([_of(part, one).reshape(-1) for part, one in zip(found, parameters, strict=True)])
            for found in parts
        ]
    )
    of_retain, of_forget = collectives.total(flat)
    first, second = bargain(of_retain, of_forget, fallback)
    value = (first * retain + second * forget).detach()
    surrogate = value.new_zeros(())
    for parameter, *mine in zip(parameters, *parts, strict=True):
        # A parameter that neither loss depends on keeps no gradient, so weight decay does not change it.
        if any(gradient is not None for gradient in mine):
            combined = first * _of(mine[0], parameter) + second * _of(mine[1], parameter)
            surrogate = surrogate + (combined * parameter).sum()
    return surrogate + (value - surrogate).detach()


def _of(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


def bargain(retain: Tensor, forget: Tensor, fallback: float) -> tuple[float, float]:
    """Compute Nash's weights (a_r, a_u) of two flat gradients.

    They are (1, `fallback`) if the gradients are opposite, or if one is zero or not finite.
    """
    sizes = float(retain.double().norm()), float(forget.double().norm())
    product = sizes[0] * sizes[1]
    if not 0 < product < math.inf:
        return 1.0, fallback
    shared = 1 + float(retain.double() @ forget.double()) / product
    if shared < OPPOSITE:
        return 1.0, fallback
    return 1 / (sizes[0] * math.sqrt(shared)), 1 / (sizes[1] * math.sqrt(shared))
