"""Dropout (Srivastava et al., JMLR 2014) with masks drawn per utterance: in one epoch, batch and process do not matter.

torch draws masks per batch, so a batch that is split over two processes would get other masks than in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from speechforget.batch import Batch, Pair, halves
from speechforget.seeding import seed_from

KINDS = {nn.Dropout: functional.dropout, nn.Dropout1d: functional.dropout1d, nn.Dropout2d: functional.dropout2d}

# Of the current step: pairs of inputs and their rows, the seed of each dropout's draws by its number, and the rows of
# the model's current input.
_step: dict[str, Any] = {"batches": (), "seed_of": None, "rows": None}


class UtteranceDropout(_DropoutNd):
    """Replace the `number`th dropout of a model, of torch's class `kind`; outside `drawn_for` it behaves like it."""

    def __init__(self, kind: type[_DropoutNd], probability: float, number: int) -> None:
        super().__init__(probability)
        self.kind, self.number = kind, number

    @torch.compiler.disable  # the rows change with each step, which would trigger a recompilation
    def forward(self, input: Tensor) -> Tensor:
        """Zero entries, or whole channels for the channel-wise kinds, and scale the others up."""
        rows = _step["rows"]
        if not self.training or self.p == 0 or rows is None or len(rows) != len(input):
            return KINDS[self.kind](input, self.p, self.training)
        shape = input.shape if self.kind is nn.Dropout else (*input.shape[:2], *[1] * (input.dim() - 2))
        drawn = bits(rows, math.prod(shape[1:]), _step["seed_of"](self.number))
        return input * (drawn >= math.ceil(self.p * 2**53)).to(input.dtype).mul_(1 / (1 - self.p)).view(shape)


def by_utterance(model: nn.Module) -> nn.Module:
    """Replace each dropout of torch in the model."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, _DropoutNd) and type(child) in KINDS
    ]
    for number, (parent, name, child) in enumerate(found):
        setattr(parent, name, UtteranceDropout(type(child), child.p, number).train(child.training))
    model.register_forward_pre_hook(_note_rows)
    return model


@torch.compiler.disable
def _note_rows(_: nn.Module, arguments: tuple[Any, ...]) -> None:
    _step["rows"] = next((rows for first, rows in _step["batches"] if arguments and first is arguments[0]), None)


@contextmanager
def drawn_for(batch: Batch | Pair, *salt: int | str) -> Iterator[None]:
    """Draw masks for the batch, or a half of the pair, by the utterances' rows and the salt: seed and pass."""
    with _drawn([(half.inputs[0], half.rows) for half in halves(batch) if half.inputs], partial(dropout_seed, salt)):
        yield


def dropout_seed(salt: Sequence[int | str], number: int) -> int:
    """Return the seed that the `number`th dropout of a model draws by."""
    return seed_from(*salt, "dropout", number)


def drawn_by(first: Tensor, rows: Tensor, seeds: Tensor) -> AbstractContextManager[None]:
    """Draw masks for the model's first input by rows (batch,) and the seeds of its dropouts (dropouts,), as tensors.

    So several models with seeds of their own can draw in one call (`training.stacked`).
    """
    return _drawn([(first, rows)], lambda number: seeds[number])


@contextmanager
def _drawn(batches: Sequence[tuple[Tensor, Tensor]], seed_of: Callable[[int], int | Tensor]) -> Iterator[None]:
    _step.update(batches=batches, seed_of=seed_of)
    try:
        yield
    finally:
        _step.update(batches=(), seed_of=None, rows=None)


def as_before() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for `torch.utils.checkpoint`: the recomputation in the backward pass draws the same masks."""
    return nullcontext(), _recalled(dict(_step))


@contextmanager
def _recalled(step: dict[str, Any]) -> Iterator[None]:
    now = dict(_step)
    _step.update(step)
    try:
        yield
    finally:
        _step.update(now)


def bits(rows: Tensor, count: int, seed: int | Tensor) -> Tensor:
    """Return `seeding.uniform` times 2**53, drawn on the device of the rows: int64 (len(rows), count)."""
    start = _mix(rows + seed)
    steps = torch.arange(1, count + 1, device=rows.device) * _signed(0x9E3779B97F4A7C15)
    return _shifted(_mix(start[:, None] + steps), 11)


def _mix(state: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64; torch's int64 wraps around as the algorithm needs."""
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros: the shift of int64 would repeat the sign bit."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
