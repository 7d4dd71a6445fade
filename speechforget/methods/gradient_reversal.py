"""Train on with an adversary that reads the attribute from the embedding, whose gradient is reversed there.

Ganin & Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015 (arXiv 1409.7495). For demographic
attributes in speech: Nguyen, Cheng & Amiri, "Fair cognitive impairment detection through unlearning", 2026 (arXiv
2606.18571).

    min_{theta, phi}  E_w [ l(h(x), y) + l(a_phi(R(x)), z) ],   R(x) = x,   dR/dx = -lambda_p I
    lambda_p = strength (2 / (1 + exp(-10 p)) - 1),   p = epoch / epochs

| symbol      | meaning                                                                                        |
|-------------|------------------------------------------------------------------------------------------------|
| x, h        | embedding and head of the student theta                                                        |
| y, z        | label, and value of the attribute; recordings without a known z count in the first loss only   |
| a_phi       | adversary: one hidden layer of width `hidden` on x, standardised by the original's moments     |
| l           | cross-entropy in nats                                                                          |
| E_w         | mean over the mix of forget and retain, weighted by `balanced`: see `common/erasure.py`        |

The adversary is no part of the delivered model. In the first epoch lambda is 0, so it learns to read first.

Differences from the papers: weights, without which the adversary reads the attribute from the label and the reversal
harms the label; lambda changes after each epoch instead of each step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass
from speechforget.methods.common.erasure import attribute_of, moments_of, numbers_of, weights_of
from speechforget.methods.common.losses import cross_entropy
from speechforget.seeding import seed_from

STEEPNESS = 10.0  # of lambda's rise, in both papers


class GradientReversal(Epochs):
    """Train label and adversary together. strength: largest factor of the reversed gradient. hidden: width."""

    stream = "mix"

    def __init__(self, strength: float, hidden: int, balanced: bool, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.strength, self.hidden, self.balanced = strength, hidden, balanced

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Measure the original's embedding and build the adversary."""
        self.removed = attribute_of(context, "gradient_reversal")
        weights = weights_of(context, self.removed, self.balanced, self.batch_size)
        moments = moments_of(context, self.removed, weights, self.batch_size)
        spread = moments.within.diagonal().clamp(min=0).sqrt()
        self.register_buffer("weights", weights)
        self.register_buffer("centre", moments.mean)
        self.register_buffer("spread", torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from(context.seed, "adversary"))
            hidden, values = self.hidden, len(self.removed.names)
            layers = nn.Linear(len(moments.mean), hidden), nn.ReLU(), nn.Linear(hidden, values)
        self.adversary = nn.Sequential(*layers).to(next(student.parameters()).dtype)

    def factor(self, epoch: int) -> float:
        """Compute lambda of an epoch, from 0."""
        return self.strength * (2 / (1 + math.exp(-STEEPNESS * epoch / self.epochs)) - 1)

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the weighted sum of both cross-entropies."""
        output, numbers = student(*batch.inputs), numbers_of(self.removed, batch)
        known = numbers >= 0
        cells = self.get_buffer("weights")[batch.labels, numbers.clamp(min=0)]
        weights = torch.where(known, cells, torch.ones_like(cells)).to(output.logits)
        x = (output.embedding - self.get_buffer("centre")) / self.get_buffer("spread")
        read = self.adversary(reversed_gradient(x.to(output.embedding), self.factor(current.epoch)))
        losses = cross_entropy(output.logits, batch.labels)
        losses = losses + torch.where(known, cross_entropy(read, numbers.clamp(min=0)), torch.zeros_like(losses))
        return self.mean(weights * losses, batch)


def reversed_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x; its gradient is multiplied by -factor."""
    return (1 + factor) * x.detach() - factor * x
