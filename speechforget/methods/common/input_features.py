"""What the classifier sees of a batch, for methods that perturb it: sizes are in the features' own standard deviation, and padding stays padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.distributed.dropout import bits
from speechforget.methods.base.method import Context


@torch.no_grad()
def features_of(model: nn.Module, batch: Batch) -> Tensor:
    """The frontend's features of a batch, (batch, ...)."""
    features: Tensor = model.frontend(*batch.inputs)  # type: ignore[operator]
    return features


def heard(model: nn.Module, batch: Batch, features: Tensor) -> Tensor:
    """1 in the cells of features (batch, ...) that hold sound, 0 where they are padding; broadcasts to their shape."""
    cells: Tensor = model.heard(features, *batch.inputs[1:2])  # type: ignore[operator]
    return cells.to(features.dtype)


def logits_of(model: nn.Module, batch: Batch, features: Tensor) -> Tensor:
    """What the model says, (batch, classes), of features instead of those of the batch itself; counted as one pass."""
    logits: Tensor = model(*batch.inputs, features=features).logits
    return logits


def deviation(context: Context, name: str, batch_size: int) -> Tensor:
    """Standard deviation of each feature over the cells of a set that hold sound; broadcasts to the shape of one utterance's features.

    name: `forget` or `retain`. Of log-mel features one number a band; of raw samples, whose axes are all time, a single one.
    """
    model = context.original
    first = next(iter(context.batches(name, batch_size)))
    along = _sums(model, first)

    def sums(batch: Batch) -> Tensor:
        return _sums(model, batch)

    count, total, square = context.total(name, batch_size, sums, torch.zeros_like(along))
    mean = total / count.clamp(min=1)
    return (square / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt().to(next(model.parameters()).dtype)


def normal(rows: Tensor, features: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Standard normal numbers in the shape of features (batch, ...), 0 where the mask (`heard`'s) is.

    An utterance's depend on (seed, its number in `rows`) alone: time varies slowest, so neither padding nor the rest of the batch changes them.
    """
    axes = range(1, features.dim())
    order = [0, *(axis for axis in axes if mask.shape[axis] > 1), *(axis for axis in axes if mask.shape[axis] == 1)]
    shape = [features.shape[axis] for axis in order]
    uniform = (
        bits(rows.to(features.device), math.prod(shape[1:]), seed)
        .double()
        .add(0.5)
        .mul(2.0**-53)
        .clamp(max=1 - 2.0**-53)
    )
    back = [order.index(axis) for axis in range(features.dim())]
    return torch.special.ndtri(uniform).view(shape).permute(back).to(features.dtype) * mask


def alike(*features: Tensor) -> list[Tensor]:
    """Features of several batches, (batch, ...) each, filled up with padding, which is 0, to one shape."""
    sizes = [max(axis) for axis in zip(*(some.shape[1:] for some in features), strict=True)]
    short = [[size - own for size, own in zip(sizes, some.shape[1:], strict=True)] for some in features]
    return [
        functional.pad(some, [end for lacking in reversed(axes) for end in (0, lacking)])
        for some, axes in zip(features, short, strict=True)
    ]


def length(values: Tensor) -> Tensor:
    """Euclidean norm of each utterance's values (batch, ...), in a shape that broadcasts over them."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1).view(-1, *[1] * (values.dim() - 1))


def _sums(model: nn.Module, batch: Batch) -> Tensor:
    """(3, ...): cells heard, their sum, and the sum of their squares, over utterances and time, in float64."""
    features = features_of(model, batch).double()
    mask = heard(model, batch, features)
    over = [0, *(axis for axis in range(1, features.dim()) if mask.shape[axis] > 1)]
    parts = [mask.expand_as(features), features * mask, features.square() * mask]
    return torch.stack([part.sum(over, keepdim=True)[0] for part in parts])
