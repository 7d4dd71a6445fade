"""Lower the loss on retain and raise it on forget, in every step (NegGrad+).

Kurmanji, Triantafillou, Hayes & Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023; Choi & Na,
"Towards machine unlearning benchmarks", 2023 ("advanced negative gradient").

    min_theta  a_r * E_{D_r} l(x, y; theta) - a_f * E_{D_f} l(x, y; theta)

| symbol | meaning                                                                                                 |
|--------|---------------------------------------------------------------------------------------------------------|
| a_r    | `retain_weight`: alpha of Kurmanji et al., 1 of Choi & Na                                               |
| a_f    | `forget_weight`: 1 - alpha of Kurmanji et al., 1 of Choi & Na                                           |
| l      | cross-entropy in nats, mean over each of a step's two batches; retain goes through the model first      |
| epoch  | once through retain; forget restarts, reshuffled, whenever it ends, so it is seen about n_r / n_f times |

Two weights instead of one alpha cover both published forms. l on forget has no upper limit, and its growing gradient
would dominate retain's. So `clip` bounds the gradient of the whole step.

Differences from public code:
- UnSLU-BENCH skips steps with batches of unequal size. Here all steps are taken, each batch with its own mean.
- UnSLU-BENCH continues through forget across epochs. Here each epoch starts both.
- Public code uses batch-norm in `train` mode for the two batches in turn, so half of the running statistics come from
  forget. Here it is `frozen` by default for both, because the deployed function itself must forget.
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
    """Train on pairs of a retain and a forget batch, for as long as retain lasts."""

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
                f"retain_weight and forget_weight must not be below 0, but are {retain_weight} and {forget_weight}."
            )
        self.learning_rate, self.epochs = learning_rate, epochs
        self.batch_size, self.forget_batch_size = batch_size, forget_batch_size
        self.retain_weight, self.forget_weight, self.batch_norm = retain_weight, forget_weight, batch_norm

    def passes(self) -> Sequence[Pass]:
        """Make one pass over pairs per epoch."""
        return [self._pass(epoch) for epoch in range(self.epochs)]

    def _pass(self, epoch: int) -> Pass:
        options = (self.batch_size, self.learning_rate, self.batch_norm)
        return Pass("both", *options, length="retain", forget_batch_size=self.forget_batch_size, epoch=epoch)

    def loss(self, student: nn.Module, batch: Pair, current: Pass) -> Tensor:
        """Compute the weighted cross-entropy of retain minus that of forget."""
        assert batch.forget is not None
        retain, forget = (self._cross_entropy(student, half) for half in (batch.retain, batch.forget))
        return self.retain_weight * retain - self.forget_weight * forget

    def _cross_entropy(self, student: nn.Module, batch: Batch) -> Tensor:
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
