"""Define an unlearning method: one-shot work, a plan of passes, a loss, and hooks on gradients and weights.

A method is a module built from the numbers of its yaml. Teachers, masks and drawn labels are its state, so checkpoints
save them. A method depends on torch only. It does not know who runs it: `driver.py`, or Lightning through it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError, nearest
from speechforget.methods.common.losses import mean
from speechforget.methods.common.superloss import Curriculum

Stream = Literal["forget", "retain", "both", "turns", "mix", "nothing"]
Half = Literal["forget", "retain"]
BatchNorm = Literal["frozen", "batch", "train"]
Evaluate = Callable[[str], float]


@dataclass(frozen=True)
class Pass:
    """Describe one pass over one stream; a method's plan is a list of passes.

    stream: `forget`; `retain`; `both` (each step gets a `Pair`); `turns` (one forget batch, then `every` retain
        batches, one step each); `mix` (forget and retain utterances shuffled into one stream); or `nothing` (batches
        without data: the method supplies its own).
    batch_size: utterances per step over all processes; in `both` and `turns`, of the retain batches.
    learning_rate: the learning rate of the pass, or a function of the step's index in the pass, from 0.
    batch_norm: `frozen` (use running statistics), `batch` (use the batch's statistics, leave the running ones
        unchanged) or `train`.
    length: steps of the pass (in `turns`, its retain steps): one epoch of `forget`, of `retain` or of the `longer` of
        the two, or a number of steps. `nothing` needs a number. `mix` and single streams last one epoch of their own
        data.
    forget_batch_size: utterances of the forget batches in `both` and `turns`; None: the same as `batch_size`.
    first: utterances in the first step of a single stream, if the method itself fills up that step; None: as many as in
        the other steps.
    every: retain batches after each forget batch, in `turns`.
    again: whether the forget half of `both` restarts when it ends before the pass. If not, the remaining steps have no
        forget batch.
    epoch: the epoch of the pass, from 0; random draws and schedules depend on it.
    fresh_optimizer: whether to clear the optimiser's state (momentum) before the pass.
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
        """Return the learning rate of a step, counted from 0."""
        return self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate

    @property
    def halves(self) -> tuple[Half, ...]:
        """Return whether its steps are of forget, of retain or of both in turns; empty where a step mixes them."""
        known: dict[str, tuple[Half, ...]] = {"forget": ("forget",), "retain": ("retain",)}
        return ("forget", "retain") if self.stream == "turns" else known.get(self.stream, ())

    def half(self, step: int) -> Half:
        """Return what a step of a pass with `halves` is of, counted from 0."""
        return self.halves[0] if len(self.halves) == 1 else "retain" if step % (self.every + 1) else "forget"


class Retraining(Protocol):
    """Train again by the recipe of the original, on retain only; the student is changed in place."""

    def rewind(self, student: nn.Module, epochs_back: int, epochs: int | None) -> None:
        """Train a student with the weights of a kept epoch to the end of the recipe.

        epochs_back: epochs of the recipe that were left at that epoch. epochs: to make now; None: the same number.
        """

    def shards(self, student: nn.Module) -> None:
        """Train the shards of an ensemble that held an utterance of the request, from their first changed slice."""


@dataclass(frozen=True)
class Removed:
    """Hold the attribute that a request removes.

    names: its known values. numbers: of each row of the corpus, the index of its value in `names`, -1 where unknown.
    """

    names: tuple[str, ...]
    numbers: Tensor


@dataclass(frozen=True)
class Context:
    """Hold everything that a method may use before its passes.

    original: the original classifier in evaluation mode; `frozen_copy` makes a teacher of it.
    fresh: builds a classifier of the same architecture with random weights, drawn from the run's seed.
    batches: (name, batch size) -> batches of `forget`, `retain`, `train` or `validation`, in a fixed order and without
        augmentation. A name that is not in the method's `needs` raises an error.
    classes: number of outputs.
    forgotten: indices of the classes that the request removes whole; empty for a sample request.
    seed: seed of every random draw.
    keep: stores what `remember` computes; None: nothing is stored.
    spent: adds a number of utterances to the count of forward and backward passes. Use it for passes that do not call
        the whole model, since calls of the whole model are counted automatically.
    sizes: name -> number of utterances of a set; None: its batches are counted.
    retraining: trains again by the recipe of the original; None: the recipe is not known.
    attribute: what a request for an attribute removes; None for a request of recordings.
    inserted: puts an affine map, weight and bias, before the head of a classifier, in place.
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
    retraining: Retraining | None = None
    attribute: Removed | None = None
    inserted: Callable[[nn.Module, Tensor, Tensor], None] | None = None

    def count(self, name: str, batch_size: int) -> int:
        """Count the utterances of a set; without `sizes`, by reading it in batches of `batch_size`."""
        return self.sizes(name) if self.sizes else sum(len(batch.labels) for batch in self.batches(name, batch_size))

    def erase(self, student: nn.Module, weight: Tensor, bias: Tensor) -> None:
        """Map the student's embedding x to weight x + bias before it leaves and before the head reads it."""
        if self.inserted is None:
            raise RuntimeError("nothing here can insert a layer before a head")
        self.inserted(student, weight, bias)

    def remember(self, of: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Compute `of(self, *arguments)` once for each original and store it for later requests and methods.

        The value must depend only on the original and the whole training set, never on the request.
        of: a function of a module. arguments: plain numbers and strings.
        """

        def make() -> Tensor:
            return of(self, *arguments)

        return make() if self.keep is None else self.keep(of, arguments, make)

    def total(self, name: str, batch_size: int, of: Callable[[Batch], Tensor], zero: Tensor) -> Tensor:
        """Sum `of(batch)` over the batches of a set, starting at `zero`: importances, masks, statistics.

        Each rank computes its part of the batches and all ranks get the sum. Prefer this to a loop over `batches`,
        which every rank runs in full.
        """
        total = zero.clone()
        for batch in itertools.islice(self.batches(name, batch_size), collectives.rank(), None, collectives.world()):
            total += of(batch)
        return collectives.total(total)


class Method(nn.Module):
    """Define the hooks of a method. All of them do nothing by default; a method overrides those it needs.

    A method's own parameters are trained with the student's if they require a gradient. Teachers do not
    (`frozen_copy`).

    needs: the data sets that the method uses, out of `forget`, `retain` and `validation`. Asking for any other set
        raises an error.
    optimizer: options of `make_optimizer`; one optimiser serves all passes, unless `optimizers` is `two`.
    clip: the largest global gradient norm; None: no limit.
    frozen_batch_norm: the mode of batch-norm layers with frozen weights; None: the mode of the pass.
    curriculum, trainable, retain_share, learning_rate_steps, optimizers: see `switches.py`.
    """

    needs: frozenset[str] = frozenset({"forget", "retain"})
    frozen_batch_norm: BatchNorm | None = "frozen"
    trainable: str = "all"
    retain_share: float = 1.0
    learning_rate_steps: float | None = None
    optimizers: str = "one"

    def __init__(self, optimizer: Mapping[str, Any] | None = None, clip: float | None = None) -> None:
        super().__init__()
        self.optimizer = dict(optimizer or {"name": "sgd"})
        self.clip = clip
        self.curriculum: Curriculum | None = None

    def train(self, mode: bool = True) -> Self:
        """Keep evaluation mode, whatever is asked.

        The student is not part of the method, and teachers must never update their running statistics.
        """
        return super().train(False)

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the one-shot work before the passes: teachers, masks, or the whole edit of the `student`.

        It must be deterministic, because a resumed run repeats it.
        """

    def passes(self) -> Sequence[Pass]:
        """Return the plan of passes; empty for one-shot methods."""
        return ()

    def loss(self, student: nn.Module, batch: Any, current: Pass) -> Tensor:
        """Compute the scalar to minimise, in nats, with `self.mean` over the batch.

        batch: a `Batch`; in passes over `both`, a `Pair`.
        """
        raise NotImplementedError(f"{type(self).__name__} has passes and no loss")

    def mean(self, values: Tensor, batch: Batch) -> Tensor:
        """Average one loss per utterance over the step's batch, weighted by the curriculum if there is one.

        Call it once for each batch in a loss, before any change of sign. With several ranks it returns this rank's part
        (see `losses.mean`).
        """
        return mean(values if self.curriculum is None else self.curriculum(values, batch) * values, batch)

    def after_backward(self, student: nn.Module) -> None:
        """Change the gradients before the step.

        With several ranks, the gradients are already summed and equal on all ranks.
        """

    def norm_allowed(self) -> float | None:
        """Return `clip`, or None in a step that must not be clipped.

        The driver asks after `after_backward`.
        """
        return self.clip

    def after_step(self, student: nn.Module) -> None:
        """Change the weights after the step."""

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Keep or restore a model after a pass; return True to stop.

        evaluate: `forget` or `validation` (of the request's classes) -> accuracy in [0, 1].
        """
        return False


def frozen_copy(model: nn.Module) -> nn.Module:
    """Make a teacher: a deep copy in evaluation mode that no optimiser changes."""
    return copy.deepcopy(model).eval().requires_grad_(False)
