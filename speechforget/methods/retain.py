"""What methods that go on training on retain have in common: epochs over it, with a learning rate that follows a schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from speechforget.errors import UserError, nearest
from speechforget.methods.method import BatchNorm, Pass

Schedule = Literal["constant", "linear", "cosine", "restarts"]


@dataclass(frozen=True)
class RetainEpochs:
    """The plan of `epochs` passes over retain. schedule, minimum: see `rate`. Raises UserError for a schedule that means nothing."""

    learning_rate: float
    epochs: int
    batch_size: int
    schedule: Schedule = "constant"
    minimum: float = 0.0
    batch_norm: BatchNorm = "train"

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise UserError(f"Unknown schedule '{self.schedule}' of the learning rate: {nearest(self.schedule, get_args(Schedule))}")
        if not 0 <= self.minimum <= self.learning_rate:
            raise UserError(f"minimum is the lowest learning rate, from 0 to learning_rate={self.learning_rate}, not {self.minimum}.")

    def passes(self) -> list[Pass]:
        """One retain pass per epoch."""
        rates = [rate(self.schedule, epoch, self.epochs, self.learning_rate, self.minimum) for epoch in range(self.epochs)]
        return [Pass("retain", self.batch_size, rates[epoch], self.batch_norm, epoch=epoch) for epoch in range(self.epochs)]


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
