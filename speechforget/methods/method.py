"""What an unlearning method is: one-shot work, a plan of passes, a loss, and hooks for what the loss cannot say.

A method is a module built from its yaml with numbers only. Teachers, masks and drawn labels are its state, so they are saved with a checkpoint.
It knows torch only; who turns the crank (`driver.py`, or Lightning through it) is not its business.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn

from speechforget import ranks
from speechforget.batch import Batch
from speechforget.errors import UserError, nearest

Stream = Literal["forget", "retain", "both", "mix"]
BatchNorm = Literal["frozen", "batch", "train"]
Evaluate = Callable[[str], float]


@dataclass(frozen=True)
class Pass:
    """One pass over one stream; a method's plan is a list of these.

    stream: `forget`, `retain`, `both` (a `Pair` in every step) or `mix` (one shuffled stream of forget and retain utterances).
    batch_size: utterances a step, over all processes; in `both`, of each half.
    length: steps of the pass: one epoch of `forget`, of `retain` or of the `longer` of the two, or a number of steps. The shorter
        half of `both` starts again when it ends. `mix` and single streams are one epoch of themselves.
    batch_norm: `frozen` (running statistics used), `batch` (the batch's used, running ones untouched) or `train`.
    retain_share: the share of the retain utterances that the stream sees, the same ones in every pass.
    epoch: the epoch that the pass belongs to, from 0 (draws and schedules depend on it).
    """

    stream: Stream
    batch_size: int
    learning_rate: float
    batch_norm: BatchNorm = "train"
    length: Literal["forget", "retain", "longer"] | int = "longer"
    retain_share: float = 1.0
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.batch_norm not in get_args(BatchNorm):
            raise UserError(f"Unknown batch-norm mode '{self.batch_norm}': {nearest(self.batch_norm, get_args(BatchNorm))}")
        if self.batch_size < 1:
            raise UserError(f"A batch size must be at least 1, not {self.batch_size}.")


@dataclass(frozen=True)
class Context:
    """What a method may look at before its passes.

    original: the original classifier in evaluation mode; `frozen_copy` makes a teacher of it.
    fresh: builds a classifier of the same architecture with random weights, drawn from the run's seed.
    batches: (name, batch size) -> batches of `forget`, `retain`, `train` or `validation` in a fixed order and without augmentation;
        a name that the method's `needs` does not hold raises.
    classes: number of outputs. forgotten: the class numbers that the request removes whole, empty for samples.
    seed: of every draw.
    """

    original: nn.Module
    fresh: Callable[[], nn.Module]
    batches: Callable[[str, int], Iterable[Batch]]
    classes: int
    forgotten: tuple[int, ...]
    seed: int

    def total(self, name: str, batch_size: int, of: Callable[[Batch], Tensor], zero: Tensor) -> Tensor:
        """The sum of `of(batch)` over the batches of a set, started at `zero`: importances, masks, statistics.

        Of several ranks each computes its part of the batches and all get the sum, so use this rather than a loop over `batches`, which every
        rank goes through whole.
        """
        total = zero.clone()
        for batch in itertools.islice(self.batches(name, batch_size), ranks.rank(), None, ranks.world()):
            total += of(batch)
        return ranks.total(total)


class Method(nn.Module):
    """The hooks of a method, all of which do nothing; a method overrides what it needs.

    needs: the data it touches, out of `forget`, `retain` and `validation`; anything else raises when it is asked for.
    optimizer: `make_optimizer`'s options; one optimiser serves all passes. clip: the global gradient norm allowed, None for no limit.
    """

    needs: frozenset[str] = frozenset({"forget", "retain"})

    def __init__(self, optimizer: Mapping[str, Any] | None = None, clip: float | None = None) -> None:
        super().__init__()
        self.optimizer = dict(optimizer or {"name": "sgd"})
        self.clip = clip

    def train(self, mode: bool = True) -> Self:
        """Always evaluation mode: the student is no part of the method, and teachers must never move their statistics."""
        return super().train(False)

    def prepare(self, student: nn.Module, context: Context) -> None:
        """One-shot work before the passes: teachers, masks, or the whole edit of the `student`. Deterministic: a resumed run repeats it."""

    def passes(self) -> Sequence[Pass]:
        """The plan; empty for one-shot methods."""
        return ()

    def loss(self, student: nn.Module, batch: Any, current: Pass) -> Tensor:
        """The scalar to minimise in nats, by `losses.mean` over the batch: a `Batch`, or a `Pair` in passes over `both`."""
        raise NotImplementedError(f"{type(self).__name__} has passes and no loss")

    def after_backward(self, student: nn.Module) -> None:
        """What happens to the gradients before the step; on several ranks they are already the sums, equal on all of them."""

    def after_step(self, student: nn.Module) -> None:
        """What happens to the weights after the step."""

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """May keep, restore or stop (True). `evaluate`: `forget` or `validation` (of the request's classes) -> accuracy in [0, 1]."""
        return False


def frozen_copy(model: nn.Module) -> nn.Module:
    """A teacher: a deep copy in evaluation mode that no optimiser moves."""
    return copy.deepcopy(model).eval().requires_grad_(False)
