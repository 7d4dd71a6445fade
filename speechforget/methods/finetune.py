"""Fine-tuning: go on training on retain, and count on catastrophic forgetting.

Baseline of Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020; numbers as in Jia et al., "Model sparsity can simplify
machine unlearning", NeurIPS 2023.

    min_theta  E_{D_r} l(x, y; theta),  started at theta_o

l: cross-entropy in nats, mean over the batch. The number of epochs is `epochs`, the step `learning_rate`.
As in the public code there is nothing else; batch-norm is in training mode, since all it sees is retain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.losses import cross_entropy
from speechforget.methods.method import BatchNorm, Method, Pass


class Finetune(Method):
    """Plain epochs over retain."""

    needs = frozenset({"retain"})

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        optimizer: Mapping[str, Any],
        batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        self.learning_rate, self.epochs, self.batch_size, self.batch_norm = learning_rate, epochs, batch_size, batch_norm

    def passes(self) -> Sequence[Pass]:
        """One retain pass per epoch."""
        return [Pass("retain", self.batch_size, self.learning_rate, self.batch_norm, epoch=epoch) for epoch in range(self.epochs)]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy with the true labels."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
