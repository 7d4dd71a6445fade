"""Negative gradient: descend the loss on retain and climb it on forget, both in every step (NegGrad+).

Kurmanji, Triantafillou, Hayes & Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023; Choi & Na, "Towards machine unlearning
benchmarks", 2023 ("advanced negative gradient").

    min_theta  a_r * E_{D_r} l(x, y; theta) - a_f * E_{D_f} l(x, y; theta)

| symbol | argument                                                                                                     |
|--------|--------------------------------------------------------------------------------------------------------------|
| a_r    | `retain_weight`: alpha of Kurmanji et al., 1 of Choi & Na                                                    |
| a_f    | `forget_weight`: 1 - alpha of Kurmanji et al., 1 of Choi & Na                                                |
| l      | cross-entropy in nats, mean over each of a step's two batches, retain heard first                            |
| epoch  | once through retain; forget starts again, reshuffled, as often as it ends, so it is seen about n_r / n_f times |

Two weights rather than one alpha, since both published forms are then a choice of numbers. l on forget has no upper limit, and a gradient that
grows with it would drown retain's: `clip` bounds the gradient of the whole step.

Where public code differs: UnSLU-BENCH skips steps whose two batches are of unequal size, and here all are taken, each batch by its own mean; it
goes through forget over the ends of epochs, and here an epoch begins both. Public code uses batch-norm's `train` for the two batches in turn, so half
of what the running statistics learn is forget's. Here the default is `frozen`, for both, as it is the function that is deployed that must forget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from speechforget.batch import Batch, Pair
from speechforget.errors import UserError
from speechforget.methods.base.method import BatchNorm, Method, Pass
from speechforget.methods.common.losses import cross_entropy


class NegativeGradient(Method):
    """Passes over pairs of a retain and a forget batch, as long as retain."""

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        forget_batch_size: int,
        retain_weight: float,
        forget_weight: float,
        optimizer: Mapping[str, Any],
        batch_norm: BatchNorm = "frozen",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if min(retain_weight, forget_weight) < 0:
            raise UserError(
                f"retain_weight and forget_weight must not be below 0, and they are {retain_weight} and {forget_weight}."
            )
        self.learning_rate, self.epochs, self.batch_size, self.forget_batch_size = (
            learning_rate,
            epochs,
            batch_size,
            forget_batch_size,
        )
        self.retain_weight, self.forget_weight, self.batch_norm = retain_weight, forget_weight, batch_norm

    def passes(self) -> Sequence[Pass]:
        """One pass over pairs per epoch."""
        return [self._pass(epoch) for epoch in range(self.epochs)]

    def _pass(self, epoch: int) -> Pass:
        options = (self.batch_size, self.learning_rate, self.batch_norm)
        return Pass("both", *options, length="retain", forget_batch_size=self.forget_batch_size, epoch=epoch)

    def loss(self, student: nn.Module, batch: Pair, current: Pass) -> Tensor:
        """Weighted cross-entropy of retain minus that of forget."""
        assert batch.forget is not None
        retain, forget = (self._cross_entropy(student, half) for half in (batch.retain, batch.forget))
        return self.retain_weight * retain - self.forget_weight * forget

    def _cross_entropy(self, student: nn.Module, batch: Batch) -> Tensor:
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
