"""Train on wrong labels for forget and on the true labels for retain.

Graves, Nagisetty & Ganesh, "Amnesiac machine learning", AAAI 2021; Golatkar, Achille & Soatto, CVPR 2020.

    min_theta  E_{D_f} l(x, y'; theta) + E_{D_r} l(x, y; theta),  y' ~ uniform({1..K} minus y minus forgotten classes)

| symbol     | meaning                                                                                       |
|------------|-----------------------------------------------------------------------------------------------|
| y'         | drawn from (seed, epoch, utterance); with `redraw`, again in each epoch, otherwise once       |
| order of + | `order`: `joint` = one mixed pass per epoch; `sequential` = a forget pass, then a retain pass |
| l          | cross-entropy in nats, mean over the batch                                                    |

Differences from public code:
- Unlearn-Saliency draws y' uniformly with the true label among the candidates, so it teaches the true label with
  probability 1 / K. MU-Bench takes y + 1. Here y' is never the true class nor a forgotten one, as in the papers.
- Unlearn-Saliency chooses the order by data set. Here the order is an argument.
- Batch-norm is `frozen` by default in every pass with forget in it, mixed ones too: the deployed function must learn
  the wrong answers, and its running statistics must not come from forget. Retain passes train batch-norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError, nearest
from speechforget.methods.base.method import BatchNorm, Context, Method, Pass
from speechforget.methods.common.losses import cross_entropy, random_labels


class RandomLabel(Method):
    """Train each epoch on forget with drawn labels and on retain, in one mixed pass or two passes."""

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        optimizer: Mapping[str, Any],
        order: Literal["joint", "sequential"] = "joint",
        redraw: bool = True,
        forget_batch_norm: BatchNorm = "frozen",
        retain_batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if order not in ("joint", "sequential"):
            raise UserError(f"Unknown order '{order}' of random labels: {nearest(order, ('joint', 'sequential'))}")
        self.learning_rate, self.epochs, self.batch_size = learning_rate, epochs, batch_size
        self.order, self.redraw = order, redraw
        self.forget_batch_norm, self.retain_batch_norm = forget_batch_norm, retain_batch_norm

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Store what the label draws depend on."""
        self.classes, self.forgotten, self.seed = context.classes, context.forgotten, context.seed

    def passes(self) -> Sequence[Pass]:
        """Make one mixed pass per epoch (`joint`), or a forget and a retain pass (`sequential`)."""
        if self.order == "joint":
            return [
                Pass("mix", self.batch_size, self.learning_rate, self.forget_batch_norm, epoch=epoch)
                for epoch in range(self.epochs)
            ]
        plan = []
        for epoch in range(self.epochs):
            plan.append(Pass("forget", self.batch_size, self.learning_rate, self.forget_batch_norm, epoch=epoch))
            plan.append(Pass("retain", self.batch_size, self.learning_rate, self.retain_batch_norm, epoch=epoch))
        return plan

    def draw(self, batch: Batch, epoch: int) -> Tensor:
        """Draw the wrong labels of a batch in an epoch, (batch,)."""
        return random_labels(
            batch.rows, batch.labels, self.classes, self.forgotten, self.seed, epoch if self.redraw else 0
        )

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with drawn labels on forget utterances and true labels on the others."""
        labels = (
            batch.labels
            if current.stream == "retain"
            else torch.where(batch.forget, self.draw(batch, current.epoch), batch.labels)
        )
        return self.mean(cross_entropy(student(*batch.inputs).logits, labels), batch)
