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

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError, nearest
from speechforget.methods.common.losses import mean
from speechforget.methods.common.superloss import Curriculum

Stream = Literal["forget", "retain", "both", "turns", "mix", "nothing"]
BatchNorm = Literal["frozen", "batch", "train"]
Evaluate = Callable[[str], float]


@dataclass(frozen=True)
class Pass:
    """One pass over one stream; a method's plan is a list of these.

    stream: `forget`, `retain`, `both` (a `Pair` in every step), `turns` (a forget batch, then `every` retain batches, each a step), `mix` (one
        shuffled stream of forget and retain utterances) or `nothing` (batches without data: the method brings its own).
    batch_size: utterances a step, over all processes; in `both` and `turns`, of retain batches. forget_batch_size: of their forget batches, if not
        the same.
    first: utterances of the first step of a single stream, where a method fills that up itself; None: as many as in the others.
    learning_rate: of the pass, or a function of the number of a step in it, from 0.
    batch_norm: `frozen` (running statistics used), `batch` (the batch's used, running ones untouched) or `train`.
    length: steps of the pass (in `turns`, of retain): one epoch of `forget`, of `retain` or of the `longer` of the two, or a number of steps;
        `nothing` needs a number. `mix` and single streams are one epoch of themselves.
    again: whether the forget half of `both` starts again when it ends before the pass; if not, the steps that are left have none.
    epoch: the epoch that the pass belongs to, from 0 (draws and schedules depend on it).
    fresh_optimizer: whether the optimiser forgets what it knew (momentum) before the pass.
    """

    stream: Stream
    batch_size: int
    learning_rate: float | Callable[[int], float]
    batch_norm: BatchNorm = "train"
    length: Literal["forget", "retain", "longer"] | int = "longer"
    forget_batch_size: int | None = None
    first: int | None = None
    every: int = 1
    again: bool = True
    epoch: int = 0
    fresh_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.batch_norm not in get_args(BatchNorm):
            raise UserError(
                f"Unknown batch-norm mode '{self.batch_norm}': {nearest(self.batch_norm, get_args(BatchNorm))}"
            )
        if min(self.batch_size, self.forget_batch_size or 1) < 1:
            raise UserError(
                f"A batch size must be at least 1, not {min(self.batch_size, self.forget_batch_size or 1)}."
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate


@dataclass(frozen=True)
class Context:
    """What a method may look at before its passes.

    original: the original classifier in evaluation mode; `frozen_copy` makes a teacher of it.
    fresh: builds a classifier of the same architecture with random weights, drawn from the run's seed.
    batches: (name, batch size) -> batches of `forget`, `retain`, `train` or `validation` in a fixed order and without augmentation;
        a name that the method's `needs` does not hold raises.
    classes: number of outputs. forgotten: the class numbers that the request removes whole, empty for samples.
    seed: of every draw.
    keep: how `remember` keeps what it makes; None where nothing is kept.
    spent: tells how many utterances went forward and backward where the model was not called as a whole, which is counted by itself.
    sizes: name -> utterances of a set; None: its batches are counted.
    """

    original: nn.Module
    fresh: Callable[[], nn.Module]
    batches: Callable[[str, int], Iterable[Batch]]
    classes: int
    forgotten: tuple[int, ...]
    seed: int
    keep: Callable[[Callable[..., Tensor], Sequence[Any], Callable[[], Tensor]], Tensor] | None = None
    spent: Callable[[int], None] = lambda forward_backward: None
    sizes: Callable[[str], int] | None = None

    def count(self, name: str, batch_size: int) -> int:
        """How many utterances a set has; without `sizes` they are read in batches of `batch_size`."""
        return self.sizes(name) if self.sizes else sum(len(batch.labels) for batch in self.batches(name, batch_size))

    def remember(self, of: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`of(self, *arguments)`, which must depend on the original and the whole training set only, never on the request.

        It is made once for each original and kept, so that the next request, or another method, finds it. of: a function of a module; arguments:
        plain numbers and words.
        """

        def make() -> Tensor:
            return of(self, *arguments)

        return make() if self.keep is None else self.keep(of, arguments, make)

    def total(self, name: str, batch_size: int, of: Callable[[Batch], Tensor], zero: Tensor) -> Tensor:
        """The sum of `of(batch)` over the batches of a set, started at `zero`: importances, masks, statistics.

        Of several ranks each computes its part of the batches and all get the sum, so use this rather than a loop over `batches`, which every
        rank goes through whole.
        """
        total = zero.clone()
        for batch in itertools.islice(self.batches(name, batch_size), collectives.rank(), None, collectives.world()):
            total += of(batch)
        return collectives.total(total)


class Method(nn.Module):
    """The hooks of a method, all of which do nothing; a method overrides what it needs.

    Parameters of its own that require a gradient are trained together with the student's; teachers' do not (`frozen_copy`).

    needs: the data it touches, out of `forget`, `retain` and `validation`; anything else raises when it is asked for.
    optimizer: `make_optimizer`'s options; one optimiser serves all passes. clip: the global gradient norm allowed, None for no limit.
    frozen_batch_norm: the mode of batch-norm layers whose weights are frozen; None for that of the pass.
    curriculum, trainable, retain_share, learning_rate_steps: see `switches.py`.
    """

    needs: frozenset[str] = frozenset({"forget", "retain"})
    frozen_batch_norm: BatchNorm | None = "frozen"
    trainable: str = "all"
    retain_share: float = 1.0
    learning_rate_steps: float | None = None

    def __init__(self, optimizer: Mapping[str, Any] | None = None, clip: float | None = None) -> None:
        super().__init__()
        self.optimizer = dict(optimizer or {"name": "sgd"})
        self.clip = clip
        self.curriculum: Curriculum | None = None

    def train(self, mode: bool = True) -> Self:
        """Always evaluation mode: the student is no part of the method, and teachers must never move their statistics."""
        return super().train(False)

    def prepare(self, student: nn.Module, context: Context) -> None:
        """One-shot work before the passes: teachers, masks, or the whole edit of the `student`. Deterministic: a resumed run repeats it."""

    def passes(self) -> Sequence[Pass]:
        """The plan; empty for one-shot methods."""
        return ()

    def loss(self, student: nn.Module, batch: Any, current: Pass) -> Tensor:
        """The scalar to minimise in nats, by `self.mean` over the batch: a `Batch`, or a `Pair` in passes over `both`."""
        raise NotImplementedError(f"{type(self).__name__} has passes and no loss")

    def mean(self, values: Tensor, batch: Batch) -> Tensor:
        """The mean over the step's batch of one loss an utterance (before any change of sign), by the weights of the curriculum where there is one.

        To be called once for each batch that a loss is about: on several ranks it gives this rank's part (see `losses.mean`).
        """
        return mean(values if self.curriculum is None else self.curriculum(values, batch) * values, batch)

    def after_backward(self, student: nn.Module) -> None:
        """What happens to the gradients before the step; on several ranks they are already the sums, equal on all of them."""

    def norm_allowed(self) -> float | None:
        """`clip`, or None in a step that it is not for; asked after `after_backward`."""
        return self.clip

    def after_step(self, student: nn.Module) -> None:
        """What happens to the weights after the step."""

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """May keep, restore or stop (True). `evaluate`: `forget` or `validation` (of the request's classes) -> accuracy in [0, 1]."""
        return False


def frozen_copy(model: nn.Module) -> nn.Module:
    """A teacher: a deep copy in evaluation mode that no optimiser moves."""
    return copy.deepcopy(model).eval().requires_grad_(False)
