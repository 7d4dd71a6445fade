"""Raise forget's loss on the weights that matter most to it, in some steps between steps that lower retain's loss.

SFRon: Huang, Cheng, Zheng, Wang, He, Li & Huang, "Unified gradient-based machine unlearning with remain geometry
enhancement", NeurIPS 2024.

    m = 1 where (F_f + tiny) / (F_r + tiny) >= threshold, else 0
    F = mean over batches of (gradient of l, mean over the batch)^2 at theta_o
    forget step   max_theta  alpha_t * E_{D_f} [w(x) l(x, y)],  gradient times m
                  w ~ min((mean of l / l)^lambda, 100), mean 1 over the batch
    retain step   min_theta  E_{D_r} l(x, y)
    alpha_t = alpha (1 + cos(pi t / T)) / 2,   learning rate eta_t = eta (1 + cos(pi t / T)) / 2,   t = 0 .. T - 1
    theta_t = beta * theta + (1 - beta) * theta_{t-1}  after each iteration

| symbol      | meaning                                                                                                |
|-------------|--------------------------------------------------------------------------------------------------------|
| iteration t | a retain step, and in every `every`th iteration a forget step before it; counted from the start of an  |
|             | epoch                                                                                                  |
| T           | `epochs` times `iterations`; null: as many iterations as retain has batches                            |
| m           | `threshold`, `mask_batch_size`; computed once, in evaluation mode, from gradients of l at the original |
| F_f, F_r    | F on forget and on retain; tiny is `TINY`                                                              |
| l           | cross-entropy in nats                                                                                  |
| alpha       | `alpha`                                                                                                |
| lambda      | `easing`: 0 weighs all alike; a larger number gives well-known utterances more weight                  |
| eta         | `learning_rate`                                                                                        |
| beta        | `blend`: 1 keeps the new weights; a smaller number stays closer to the old ones                        |
| clip        | `clip` bounds the gradient of forget steps, after the mask                                             |

An utterance weighs at most 100 times as much as one with the batch's mean loss. It also weighs at most as much as all
others together, so its share is at most one half. The paper's w ~ 1 / l^lambda has no bound: an utterance with loss 0
in float32 takes the whole weight. It has no gradient, so the forget step vanishes. If k of n utterances have no loss,
the others keep about (n - k) / (n + 99 k) of the weight. The power is computed from logarithms, so that no loss is too
small and no lambda too large.

Differences from the public code:
- Its mask multiplies gradients only. Weight decay and the momentum of retain steps still change masked weights in a
  forget step. Here masked weights get their value back (`hard_mask: true`), as in the formula.
- Its T is 1500 for every data set. Here T is a number of epochs, which suits any amount of speech.
- Its batch-norm is `train`. Here it is `frozen` by default, because the same passes contain forget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.methods.base.method import BatchNorm, Context, Method, Pass
from speechforget.methods.common.importance import over_batches, pieces
from speechforget.methods.common.losses import cross_entropy, mean, step_size

TINY = 1e-15
MOST = 100.0  # times the weight at the mean loss of the batch


class SFRon(Method):
    """Train in passes of retain steps with masked forget steps between them."""

    mask: Tensor
    slow: Tensor  # the weights after the last iteration

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        forget_batch_size: int,
        every: int,
        alpha: float,
        optimizer: Mapping[str, Any],
        iterations: int | None = None,
        easing: float = 0.5,
        threshold: float = 1.0,
        mask_batch_size: int = 64,
        hard_mask: bool = True,
        blend: float = 1.0,
        batch_norm: BatchNorm = "frozen",
        clip: float | None = 7.0,
    ) -> None:
        super().__init__(optimizer, clip)
        if every < 1:
            raise UserError(f"every must be at least 1, not {every}: 1 makes a forget step before each retain step.")
        if not 0 < blend <= 1:
            raise UserError(f"blend is the share of the new weights and must be above 0 and at most 1, not {blend}.")
        self.learning_rate, self.epochs, self.iterations = learning_rate, epochs, iterations
        self.batch_size, self.forget_batch_size, self.mask_batch_size = batch_size, forget_batch_size, mask_batch_size
        self.every, self.alpha, self.easing, self.threshold = every, alpha, easing, threshold
        self.hard_mask, self.blend, self.batch_norm = hard_mask, blend, batch_norm
        self.each = iterations or 1  # iterations in an epoch; if null, `prepare` counts retain's batches
        self.step = 0  # of the current pass
        self.before: list[Tensor] = []

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Compute the mask, and store the weights to blend in if `blend` is below 1.

        Both are flat, in the order of `parameters()`.
        """
        forget, _ = over_batches(context, "forget", self.mask_batch_size, cross_entropy, torch.square)
        retain, utterances = over_batches(context, "retain", self.mask_batch_size, cross_entropy, torch.square)
        self.each = self.iterations or max(1, math.ceil(utterances / self.batch_size))
        self.register_buffer("mask", (forget + TINY) / (retain + TINY) >= self.threshold)
        if self.blend < 1:
            self.register_buffer("slow", parameters_to_vector(context.original.parameters()).detach().clone())

    def passes(self) -> Sequence[Pass]:
        """Make one pass per epoch."""
        return [self._pass(epoch) for epoch in range(self.epochs)]

    def _pass(self, epoch: int) -> Pass:
        def rate(step: int) -> float:
            return self.learning_rate * self.annealed(epoch, step)

        options = (self.batch_size, rate, self.batch_norm)
        size, every = self.forget_batch_size, self.every
        return Pass(
            "turns", *options, length=self.iterations or "retain", forget_batch_size=size, every=every, epoch=epoch
        )

    def annealed(self, epoch: int, step: int) -> float:
        """Compute (1 + cos(pi t / T)) / 2 at a step of an epoch's pass."""
        done = epoch * self.each + place(step, self.every)[0]
        return (1 + math.cos(math.pi * done / (self.epochs * self.each))) / 2

    @property
    def forgets(self) -> bool:
        """Tell whether the current step is a forget step."""
        return place(self.step, self.every)[1]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute minus the weighted cross-entropy on forget, or the cross-entropy on retain."""
        values = cross_entropy(student(*batch.inputs).logits, batch.labels)
        if not self.forgets:
            return self.mean(values, batch)
        weight = eased(values.detach(), batch, self.easing)
        return -self.alpha * self.annealed(current.epoch, self.step) * self.mean(weight * values, batch)

    def after_backward(self, student: nn.Module) -> None:
        """Set the gradients of masked weights to zero in a forget step."""
        if not self.forgets:
            return
        for parameter, mask in self._masked(student):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0.0)
        self.before = [parameter.detach().clone() for parameter in student.parameters()] if self.hard_mask else []

    def norm_allowed(self) -> float | None:
        """Return `clip` in forget steps."""
        return self.clip if self.forgets else None

    def after_step(self, student: nn.Module) -> None:
        """Restore masked weights after a forget step; blend in the old weights after a retain step."""
        if self.forgets and self.hard_mask:
            for (parameter, mask), before in zip(self._masked(student), self.before, strict=True):
                parameter.copy_(torch.where(mask, parameter, before))
        elif not self.forgets and self.blend < 1:
            new = parameters_to_vector(student.parameters())
            self.slow.copy_(self.blend * new + (1 - self.blend) * self.slow)
            for parameter, part in zip(student.parameters(), pieces(self.slow, student.parameters()), strict=True):
                parameter.copy_(part)
        self.step += 1

    def after_pass(self, student: nn.Module, index: int, evaluate: Any) -> bool:
        """Reset the step count for the next pass."""
        self.step, self.before = 0, []
        return False

    def _masked(self, student: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        parameters = list(student.parameters())
        return list(zip(parameters, pieces(self.mask, parameters), strict=True))


def eased(values: Tensor, batch: Batch, easing: float) -> Tensor:
    """Compute w of losses (batch,) in nats, with mean 1 over the step's batch.

    With several ranks, these are the weights of this rank's utterances.
    """
    average = collectives.total(mean(values.double(), batch))
    # nan if all losses are 0: all weights are then equal.
    above = easing * (average.log() - values.double().log())
    weight = above.nan_to_num(nan=0.0).clamp(max=math.log(MOST)).exp()
    if (size := step_size(batch)) > 1:
        weight = torch.minimum(weight, size * collectives.total(mean(weight, batch)) - weight)
    return (weight / collectives.total(mean(weight, batch))).to(values.dtype)


def place(step: int, every: int) -> tuple[int, bool]:
    """Locate a step in a pass of turns: (iteration, whether this is its forget step), all counted from 0.

    The pass repeats one forget step and then `every` retain steps.
    """
    round_, within = divmod(step, every + 1)
    return round_ * every + max(0, within - 1), within == 0
