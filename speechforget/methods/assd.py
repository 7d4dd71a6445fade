"""Adaptive selective synaptic dampening: SSD that sets its own threshold by the share of the data that is to be forgotten.

Schoepf, Foster & Brintrup, "Parameter-tuning-free data entry error unlearning with adaptive selective synaptic dampening", 2024.

    alpha = the percentile number 100 - ln(1 + 100 n_f / n) of I_f / I over all weights
    theta_u = theta_o * max(min(lambda * I / I_f, 1), floor)  where I_f > alpha * I,  else theta_o

| symbol      | argument                                                                  |
|-------------|---------------------------------------------------------------------------|
| I_f, I      | as in `ssd.py`, on forget and on retain, in batches of `batch_size`       |
| n_f, n      | utterances of forget, and of the training set                             |
| lambda      | `dampening`                                                               |
| floor       | `floor`, 0 for none                                                       |

Forget is compared with retain, as in the public code, and not with the whole training set as in SSD. What retain is depends on the request, so this
importance cannot be kept for other requests. Percentiles between two weights are interpolated linearly; a ratio of 0 / 0 counts as 0, one
of x / 0 as the largest of all. Frozen weights are not counted.
"""

from __future__ import annotations

import torch
from torch import nn

from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import dampen, over_batches, threshold, unfrozen
from speechforget.methods.common.losses import cross_entropy


class Assd(Method):
    """One edit of the weights, from one pass over retain and one over forget."""

    def __init__(self, dampening: float, batch_size: int, floor: float = 0.0) -> None:
        super().__init__()
        self.dampening, self.batch_size, self.floor = dampening, batch_size, floor

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The whole edit."""
        forget, forgotten = over_batches(context, "forget", self.batch_size, cross_entropy, torch.square)
        retain, retained = over_batches(context, "retain", self.batch_size, cross_entropy, torch.square)
        alpha = threshold(unfrozen(context, forget), unfrozen(context, retain), forgotten / (forgotten + retained))
        dampen(student, forget, retain, alpha, self.dampening, self.floor)
