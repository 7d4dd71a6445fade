"""SuperLoss: each utterance's share in the loss by how hard it is, in closed form ("structured forgetting").

Castells, Weinzaepfel & Revaud, "SuperLoss: a generic loss for robust curriculum learning", NeurIPS 2020; with unlearning: Cheng & Amiri, "Speech
unlearning", Interspeech 2025.

    sigma* = argmin_sigma  (l - tau) sigma + lambda (log sigma)^2  =  exp(-W(max(-2/e, (l - tau) / lambda) / 2))

| symbol | argument                                                                                              |
|--------|-------------------------------------------------------------------------------------------------------|
| l      | an utterance's loss in nats; what is easier than usual (l < tau) weighs more, up to e                  |
| tau    | running mean of l, of forget and of retain each its own: `MEMORY` tau + (1 - MEMORY) mean of the batch |
| lambda | `strength`: without limit, all weights are 1                                                          |
| W      | Lambert's function, principal branch                                                                  |

sigma* is held fixed in the gradient: at the minimum over sigma, that is the gradient of the whole expression. Methods that climb a loss weigh it the
same way before they turn its sign. The public code lets tau start at log K; here it is the mean of the first batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError, nearest

MEMORY = 0.9
KINDS = ("forget", "retain", "both")


class Curriculum(nn.Module):
    """Weights of utterances; its running means go into checkpoints. on: whose losses are weighed: `forget`, `retain` or `both`."""

    means: Tensor

    def __init__(self, strength: float, on: str) -> None:
        super().__init__()
        if on not in KINDS:
            raise UserError(f"There is no method.curriculum_on={on}: {nearest(on, KINDS)}")
        if not is_number(strength) or not strength > 0:
            raise UserError(
                f"method.curriculum_strength must be above 0, not {strength}: the larger it is, the more alike are the weights."
            )
        self.strength, self.on = strength, on
        self.register_buffer("means", torch.full((2,), math.nan, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, values: Tensor, batch: Batch) -> Tensor:
        """Weights (batch,) of losses (batch,) in nats; moves the running means by them. Every rank calls this with its part of the batch."""
        result = torch.ones_like(values)
        for number, kind in enumerate(("retain", "forget")):
            if self.on in (kind, "both"):
                mine = batch.forget.to(values.device) == bool(number)
                seen, summed = collectives.total(torch.stack([mine.sum(), (values * mine).sum()]).double()).tolist()
                if seen:
                    before, now = float(self.means[number]), summed / seen
                    self.means[number] = now if math.isnan(before) else MEMORY * before + (1 - MEMORY) * now
                    result = torch.where(mine, weights(values, float(self.means[number]), self.strength), result)
        return result


def is_number(value: object) -> bool:
    """Whether it is one, and neither a word nor a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def weights(values: Tensor, mean: float, strength: float) -> Tensor:
    """sigma* of losses (batch,) in nats, given tau and lambda."""
    y = ((values.double() - mean) / strength).clamp(min=-2 / math.e) / 2
    return torch.exp(-lambert(y)).to(values.dtype)


def lambert(y: Tensor) -> Tensor:
    """W(y), the solution above -1 of W exp(W) = y >= -1/e, by Halley's iteration; float64 (any shape)."""
    root = torch.sqrt(torch.clamp(2 * (math.e * y + 1), min=0))
    w = torch.where(y < 1, -1 + root - root.square() / 3 + 11 / 72 * root**3, torch.log1p(y.clamp(min=0)))
    for _ in range(8):
        exponential = torch.exp(w)
        miss = w * exponential - y
        slope = exponential * (w + 1) - (w + 2) * miss / (2 * w + 2).clamp(min=1e-12)
        w = torch.where(miss == 0, w, w - miss / slope.where(slope != 0, 1.0))
    return w.clamp(min=-1)
