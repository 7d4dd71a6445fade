"""Dampen weights that matter more to forget than to retain, with a threshold set by forget's share of the data.

ASSD: Schoepf, Foster & Brintrup, "Parameter-tuning-free data entry error unlearning with adaptive selective synaptic
dampening", 2024.

    alpha = the percentile number 100 - ln(1 + 100 n_f / n) of I_f / I over all weights
    theta_u = theta_o * max(min(lambda * I / I_f, 1), floor)  where I_f > alpha * I,  else theta_o

| symbol | meaning                                                                        |
|--------|--------------------------------------------------------------------------------|
| I_f, I | importance on forget and on retain, as in `ssd.py`, in batches of `batch_size` |
| n_f, n | number of utterances in forget and in the training set                         |
| lambda | `dampening`                                                                    |
| floor  | `floor`; 0 for none                                                            |

As in the public code, forget is compared with retain; SSD compares it with the whole training set. Retain depends on
the request, so this importance cannot be stored for other requests. Percentiles between two weights are interpolated
linearly. A ratio of 0 / 0 counts as 0, and a ratio of x / 0 as the largest finite ratio. Frozen weights are not
counted.
"""

from __future__ import annotations

import torch
from torch import nn

from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import dampen, over_batches, threshold, unfrozen
from speechforget.methods.common.losses import cross_entropy


class Assd(Method):
    """Edit the weights once, after one pass over retain and one over forget."""

    def __init__(self, dampening: float, batch_size: int, floor: float = 0.0) -> None:
        super().__init__()
        self.dampening, self.batch_size, self.floor = dampening, batch_size, floor

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the whole edit."""
        forget, forgotten = over_batches(context, "forget", self.batch_size, cross_entropy, torch.square)
        retain, retained = over_batches(context, "retain", self.batch_size, cross_entropy, torch.square)
        alpha = threshold(unfrozen(context, forget), unfrozen(context, retain), forgotten / (forgotten + retained))
        dampen(student, forget, retain, alpha, self.dampening, self.floor)
