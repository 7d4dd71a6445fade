"""Provide the base of methods that train for some epochs on one stream, with a schedule of the learning rate."""

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
    """Make `epochs` passes over `stream`. A subclass says what it does before training and which loss it minimises.

    schedule, minimum: see `rate`.
    Raises UserError for an unknown schedule or a minimum out of range.
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
            raise UserError(f"Unknown learning-rate schedule '{schedule}': {nearest(schedule, get_args(Schedule))}")
        if not 0 <= minimum <= learning_rate:
            raise UserError(
                f"minimum, the lowest rate, must be from 0 to learning_rate={learning_rate}, not {minimum}."
            )
        self.learning_rate, self.epochs, self.batch_size = learning_rate, epochs, batch_size
        self.batch_norm, self.schedule, self.minimum = batch_norm, schedule, minimum

    def passes(self) -> Sequence[Pass]:
        """Make one pass per epoch."""
        rates = [
            rate(self.schedule, epoch, self.epochs, self.learning_rate, self.minimum) for epoch in range(self.epochs)
        ]
        return [
            Pass(self.stream, self.batch_size, epoch_rate, self.batch_norm, epoch=epoch)
            for epoch, epoch_rate in enumerate(rates)
        ]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the true labels; subclasses may use another loss."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)


def rate(schedule: Schedule, epoch: int, epochs: int, highest: float, lowest: float) -> float:
    """Compute the learning rate of an epoch, counted from 0, out of `epochs`; it is constant within the epoch.

    - `constant`: always the highest rate.
    - `linear`: up to the highest rate in the first half of the epochs, then down. Neither the first nor the last epoch
      is at the lowest rate.
    - `cosine`: from the highest rate down to the lowest, along half a cosine wave.
    - `restarts`: the same in periods of 1, 2, 4, ... epochs (Loshchilov & Hutter, "SGDR: stochastic gradient descent
      with warm restarts", ICLR 2017).
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
