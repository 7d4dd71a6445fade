"""Gradient ascent on forget (also called NegGrad): undo training by climbing its loss.

Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020; Thudi, Deza, Chandrasekaran & Papernot, "Unrolling SGD:
understanding factors influencing machine unlearning", EuroS&P 2022.

    max_theta  E_{D_f} l(x, y; theta),  started at theta_o

l: cross-entropy in nats, mean over the batch. The loss has no ceiling: `learning_rate` times `epochs` decides how far it goes, and `clip`
bounds the gradient's global norm, as Koudounas et al. (UnSLU-BENCH, Interspeech 2025) do.
Unlike public code, which leaves batch-norm in training mode, so that running statistics become those of the forget set, the default here is
`frozen`: the ascent climbs on the very function that is deployed. An optimiser with weight decay would shrink weights while climbing; the yaml
sets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.losses import cross_entropy
from speechforget.methods.method import BatchNorm, Method, Pass


class GradientAscent(Method):
    """Epochs over forget with the sign of the loss turned round."""

    needs = frozenset({"forget"})

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        optimizer: Mapping[str, Any],
        batch_norm: BatchNorm = "frozen",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        self.learning_rate, self.epochs, self.batch_size, self.batch_norm = learning_rate, epochs, batch_size, batch_norm

    def passes(self) -> Sequence[Pass]:
        """One forget pass per epoch."""
        return [Pass("forget", self.batch_size, self.learning_rate, self.batch_norm, epoch=epoch) for epoch in range(self.epochs)]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Minus cross-entropy with the true labels."""
        return -self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
