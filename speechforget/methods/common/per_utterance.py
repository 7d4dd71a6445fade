"""Compute values once for each utterance of a set, and look them up by utterance number in the passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.methods.base.method import Context


class Found(nn.Module):
    """Hold one value for each of some utterances; checkpoints save them.

    rows (utterances,): utterance numbers in ascending order; values (utterances, ...).
    """

    rows: Tensor
    values: Tensor

    def __init__(self, rows: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("values", values)

    def forward(self, rows: Tensor) -> Tensor:
        """Look up the values (batch, ...) of utterances (batch,); an unknown utterance gets an arbitrary value."""
        return self.values[torch.searchsorted(self.rows, rows.to(self.rows.device)).clamp(max=len(self.rows) - 1)]


def find(
    context: Context, name: str, batch_size: int, of: Callable[[Batch], Sequence[Tensor]], zeros: Sequence[Tensor]
) -> list[Found]:
    """Compute `of(batch)`, some tensors (batch, ...), for all utterances of a set.

    Each rank computes its part of the batches, and all ranks get all values. An utterance's values must not depend on
    the rest of its batch.
    zeros: one zero for each value, which sets its shape, dtype and device. Values of another shape are cut, or padded
    with zeros, at the end of each axis.
    """
    rows, _ = torch.sort(torch.cat([batch.rows for batch in context.batches(name, batch_size)]))
    results = [torch.zeros(len(rows), *zero.shape, dtype=zero.dtype, device=zero.device) for zero in zeros]
    for batch in itertools.islice(context.batches(name, batch_size), collectives.rank(), None, collectives.world()):
        indices = torch.searchsorted(rows, batch.rows)
        for result, values in zip(results, of(batch), strict=True):
            result[indices.to(result.device)] = fitted(values, result.shape[1:]).to(result)
    return [Found(rows.to(result.device), collectives.total(result)) for result in results]


def fitted(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut values (batch, ...) to (batch, *shape), or pad them with zeros, at the end of each axis."""
    room = [
        amount
        for have, want in zip(reversed(values.shape[1:]), reversed(shape), strict=True)
        for amount in (0, want - have)
    ]
    return functional.pad(values, room) if any(room) else values
