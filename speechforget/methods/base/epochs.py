"""What methods have in common that go through one stream of utterances again and again, with a learning rate that follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError, nearest
from speechforget.methods.base.method import BatchNorm, Method, Pass, Stream
from speechforget.methods.common.losses import cross_entropy

Schedule = Literal["constant", "linear", "cosine", "restarts"]


class Epochs(Method):
    """`epochs` passes over `stream`, no method by itself; a method says what it does to the student before and which loss it minimises.

    schedule, minimum: see `rate`. Raises UserError for a schedule that means nothing.
    """

    stream: Stream = "retain"

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        optimizer: Mapping[str, Any],
        batch_norm: BatchNorm,
        schedule: Schedule = "constant",
        minimum: float = 0.0,
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if schedule not in get_args(Schedule):
            raise UserError(
                f"Unknown schedule '{schedule}' of the learning rate: {nearest(schedule, get_args(Schedule))}"
            )
        if not 0 <= minimum <= learning_rate:
            raise UserError(
                f"minimum is the lowest learning rate, from 0 to learning_rate={learning_rate}, not {minimum}."
            )
        self.learning_rate, self.epochs, self.batch_size, self.batch_norm = (
            learning_rate,
            epochs,
            batch_size,
            batch_norm,
        )
        self.schedule, self.minimum = schedule, minimum

    def passes(self) -> Sequence[Pass]:
        """One pass per epoch."""
        rates = [
            rate(self.schedule, epoch, self.epochs, self.learning_rate, self.minimum) for epoch in range(self.epochs)
        ]
        return [
            Pass(self.stream, self.batch_size, rates[epoch], self.batch_norm, epoch=epoch)
            for epoch in range(self.epochs)
        ]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy with the true labels, unless a method has another loss."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)


def rate(schedule: Schedule, epoch: int, epochs: int, highest: float, lowest: float) -> float:
    """The learning rate of an epoch, from 0, out of `epochs`; constant within it.

    `constant`: the highest; `linear`: up to it in the first half of the epochs and down again in the second, with neither end at the lowest itself;
    `cosine`: from the highest down to the lowest, along half a wave; `restarts`: the same in periods of 1, 2, 4, ... epochs
    (Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017).
    """
    if schedule == "constant":
        return highest
    if schedule == "linear":
        middle = (epochs + 1) / 2
        share = 1 - abs(epoch + 1 - middle) / middle
    else:
        period = epochs
        if schedule == "restarts":
            period = 2 ** int(math.log2(epoch + 1))
            epoch -= period - 1
        share = (1 + math.cos(math.pi * epoch / period)) / 2
    return lowest + (highest - lowest) * share
