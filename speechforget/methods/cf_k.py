"""Fine-tune the last k layers on retain and freeze the others, so that catastrophic forgetting removes forget.

CF-k: Goel, Prabhu, Sanyal, Lim, Torr & Kumaraguru, "Towards adversarial evaluations for inexact machine unlearning",
2022 (arXiv 2201.06640).

    min over theta's last k layers of  E_{D_r} l(x, y; theta),  started at theta_o

| symbol | meaning                                                                                                |
|--------|--------------------------------------------------------------------------------------------------------|
| k      | `k`: entries of the classifier's `layers()`, counted from the head backwards, that contain more than a |
|        | normalisation                                                                                          |
| l      | cross-entropy in nats, mean over the batch                                                             |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`; the paper's schedule is `restarts`          |

An entry can be a whole block with everything in it. Normalisations between the last k layers are trained with them and
not counted. Weights frozen by `trainable` or in the original's training stay frozen.

Differences from the public code:
- It counts `named_children` in order of definition, and only two-dimensional convolutions. Here layers count in order
  of execution, and any layer counts.
- It leaves frozen batch-norm in training mode, so its running statistics change although the rest should stay
  untouched. Here `frozen_batch_norm` is `frozen`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import BatchNorm, Context
from speechforget.methods.common.layers import freeze_all_but, last_layers


class CFk(Epochs):
    """Train the last layers on retain for some epochs."""

    needs = frozenset({"retain"})

    def __init__(self, k: int, frozen_batch_norm: BatchNorm = "frozen", **epochs: Any) -> None:
        super().__init__(**epochs)
        self.k, self.frozen_batch_norm = k, frozen_batch_norm

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Freeze all but the last k layers."""
        freeze_all_but(student, last_layers(student, self.k))
