"""Compute a classifier's features of a batch, for methods that perturb them.

Perturbations are in units of each feature's own standard deviation, and padding stays unchanged.
"""

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
    """Compute the frontend's features of a batch, (batch, ...)."""
    features: Tensor = model.frontend(*batch.inputs)  # type: ignore[operator]
    return features


def heard(model: nn.Module, batch: Batch, features: Tensor) -> Tensor:
    """Mark the cells of features (batch, ...) that hold sound with 1 and padding with 0.

    The result broadcasts to the features' shape.
    """
    cells: Tensor = model.heard(features, *batch.inputs[1:2])  # type: ignore[operator]
    return cells.to(features.dtype)


def logits_of(model: nn.Module, batch: Batch, features: Tensor) -> Tensor:
    """Compute the model's logits (batch, classes) of the given features; this counts as one pass."""
    logits: Tensor = model(*batch.inputs, features=features).logits
    return logits


def deviation(context: Context, name: str, batch_size: int) -> Tensor:
    """Compute each feature's standard deviation over the cells of a set that hold sound.

    The result broadcasts to the features of one utterance. It has one number per band for log-mel features, and a
    single number for raw samples, which have no axis but time.
    name: `forget` or `retain`.
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
    """Draw standard normal numbers in the shape of features (batch, ...), 0 where the mask of `heard` is 0.

    The draws of an utterance depend on (seed, its number in `rows`) only. Time varies slowest, so neither padding nor
    the rest of the batch changes them.
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
    """Pad the features of several batches, (batch, ...) each, with 0 to a common shape."""
    sizes = [max(axis) for axis in zip(*(some.shape[1:] for some in features), strict=True)]
    short = [[size - own for size, own in zip(sizes, some.shape[1:], strict=True)] for some in features]
    return [
        functional.pad(some, [end for lacking in reversed(axes) for end in (0, lacking)])
        for some, axes in zip(features, short, strict=True)
    ]


def length(values: Tensor) -> Tensor:
    """Compute the Euclidean norm of each utterance's values (batch, ...), in a shape that broadcasts over them."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1).view(-1, *[1] * (values.dim() - 1))


def _sums(model: nn.Module, batch: Batch) -> Tensor:
    """Count the cells with sound and sum their values and squares over utterances and time: (3, ...), float64."""
    features = features_of(model, batch).double()
    mask = heard(model, batch, features)
    over = [0, *(axis for axis in range(1, features.dim()) if mask.shape[axis] > 1)]
    parts = [mask.expand_as(features), features * mask, features.square() * mask]
    return torch.stack([part.sum(over, keepdim=True)[0] for part in parts])
