"""Weigh each utterance's loss by its difficulty with SuperLoss, in closed form ("structured forgetting").

Castells, Weinzaepfel & Revaud, "SuperLoss: a generic loss for robust curriculum learning", NeurIPS 2020.
Applied to unlearning by Cheng & Amiri, "Speech unlearning", Interspeech 2025.

    sigma* = argmin_sigma  (l - tau) sigma + lambda (log sigma)^2  =  exp(-W(max(-2/e, (l - tau) / lambda) / 2))

| symbol | meaning                                                                                             |
|--------|-----------------------------------------------------------------------------------------------------|
| l      | loss of an utterance in nats; an utterance that is easier than usual (l < tau) weighs more, up to e |
| tau    | running mean of l, one for forget and one for retain: `MEMORY` tau + (1 - MEMORY) mean of the batch |
| lambda | `curriculum_strength`; as it goes to infinity, all weights go to 1                                  |
| W      | Lambert's function, principal branch                                                                |

The gradient treats sigma* as a constant. At the minimum over sigma, this is the gradient of the whole expression.
Methods that ascend a loss weigh it the same way before they change its sign.

Difference: the public code starts tau at log K. Here tau starts at the mean of the first batch.
"""

from __future__ import annotations

import math

import torch
from scipy.special import lambertw
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError, nearest

MEMORY = 0.9
KINDS = ("forget", "retain", "both")


class Curriculum(nn.Module):
    """Compute the weights of utterances; checkpoints save its running means.

    strength: lambda.
    on: the losses to weigh: `forget`, `retain` or `both`.
    """

    means: Tensor

    def __init__(self, strength: float, on: str) -> None:
        super().__init__()
        if on not in KINDS:
            raise UserError(f"There is no method.curriculum_on={on}: {nearest(on, KINDS)}")
        if not is_number(strength) or not strength > 0:
            raise UserError(
                f"method.curriculum_strength must be above 0, not {strength}: a larger number makes weights more alike."
            )
        self.strength, self.on = strength, on
        self.register_buffer("means", torch.full((2,), math.nan, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, values: Tensor, batch: Batch) -> Tensor:
        """Update the running means and return the weights (batch,) of losses (batch,) in nats.

        Every rank calls this with its part of the batch.
        """
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
    """Tell whether a value is a number; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def weights(values: Tensor, mean: float, strength: float) -> Tensor:
    """Compute sigma* of losses (batch,) in nats, given tau (`mean`) and lambda (`strength`)."""
    y = ((values.double() - mean) / strength).clamp(min=-2 / math.e) / 2
    return torch.exp(-lambert(y)).to(values.dtype)


def lambert(y: Tensor) -> Tensor:
    """Compute W(y), the solution above -1 of W exp(W) = y >= -1/e, in float64 (any shape).

    SciPy computes it on the CPU. The batch has one number per utterance, and `Curriculum` already waits for the device.
    """
    w = torch.as_tensor(lambertw(y.cpu().numpy()).real, device=y.device)
    # SciPy gives nan at -1/e itself, where W is -1.
    return torch.where(y <= -1 / math.e, -1.0, w)
