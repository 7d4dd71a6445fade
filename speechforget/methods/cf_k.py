"""CF-k: catastrophic forgetting in the last k layers; go on training them on retain, and freeze the rest.

Goel, Prabhu, Sanyal, Lim, Torr & Kumaraguru, "Towards adversarial evaluations for inexact machine unlearning", 2022 (arXiv 2201.06640).

    min over theta's last k layers of  E_{D_r} l(x, y; theta),  started at theta_o

| symbol | argument                                                                                                         |
|--------|------------------------------------------------------------------------------------------------------------------|
| k      | `k`: entries of the classifier's `layers()`, from the head backwards, that hold more than a normalisation        |
| l      | cross-entropy in nats, mean over the batch                                                                       |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`; the paper's schedule is `restarts`                    |

An entry can be a whole block, with all that is in it; normalisations between the last k layers are trained with them and not counted. What
`trainable` or the original's training froze stays frozen. The public code counts `named_children` in order of definition, and only
two-dimensional convolutions; here the order is that of execution, and any layer counts.
The public code leaves frozen batch-norm in training mode, so that its running statistics, which no longer belong to "the rest is untouched", go on
moving; here `frozen_batch_norm` is `frozen`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import BatchNorm, Context
from speechforget.methods.common.layers import freeze_all_but, last_layers


class CFk(Epochs):
    """Epochs over retain in which only the last layers move."""

    needs = frozenset({"retain"})

    def __init__(self, k: int, frozen_batch_norm: BatchNorm = "frozen", **epochs: Any) -> None:
        super().__init__(**epochs)
        self.k, self.frozen_batch_norm = k, frozen_batch_norm

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Freezes all but the last k layers."""
        freeze_all_but(student, last_layers(student, self.k))
