"""Count and weigh labels and attributes, and fit affine maps that erase an attribute from an embedding.

Weights make label and attribute independent (reweighing: Kamiran & Calders, "Data preprocessing techniques for
classification without discrimination", Knowledge and Information Systems 2012):

    w(y, z) = p(y) p(z) / p(y, z)

Without them an eraser would also take off what the label says of the attribute, and so a part of the label.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.errors import NotApplicable
from speechforget.methods.base.method import Context, Removed

TINY = 1e-10  # share of the largest eigenvalue below which a direction has no variance


class Moments(NamedTuple):
    """Hold weighted moments of embedding x and one-hot attribute z, in float64.

    mean: (width,). between: cov(x, z) (width, values). within: cov(x, x) (width, width).
    """

    mean: Tensor
    between: Tensor
    within: Tensor


def attribute_of(context: Context, name: str) -> Removed:
    """Return what the request removes. Raises NotApplicable for a request of recordings. name: of the method."""
    if context.attribute is None:
        raise NotApplicable(f"The method {name} removes an attribute: ask for one with task=attribute.")
    return context.attribute


def weights_of(context: Context, removed: Removed, balanced: bool, batch_size: int) -> Tensor:
    """Compute w(y, z) over the training set: (classes, values), float64; all ones if not balanced.

    Cells that do not occur have weight 0.
    """
    values = len(removed.names)
    if not balanced:
        return torch.ones(context.classes, values, dtype=torch.float64)

    def count(batch: Batch) -> Tensor:
        numbers = numbers_of(removed, batch)
        known = numbers >= 0
        cells = batch.labels[known] * values + numbers[known]
        return functional.one_hot(cells, context.classes * values).sum(dim=0).double().cpu()

    zero = torch.zeros(context.classes * values, dtype=torch.float64)
    counts = context.total("train", batch_size, count, zero).view(context.classes, values)
    expected = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0, keepdim=True) / counts.sum()
    return torch.where(counts > 0, expected / counts.clamp(min=1), torch.zeros_like(counts))


def numbers_of(removed: Removed, batch: Batch) -> Tensor:
    """Return the value of each utterance of a batch, -1 where unknown."""
    return removed.numbers.to(batch.rows.device)[batch.rows]


def moments_of(context: Context, removed: Removed, weights: Tensor, batch_size: int) -> Moments:
    """Compute the weighted moments of the original's embedding over the training set.

    They are taken about the mean of the first batch, so that float64 loses nothing to a large mean.
    """
    exact, values = torch.float64, len(removed.names)

    def read(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        numbers = numbers_of(removed, batch)
        known = numbers >= 0
        with torch.no_grad():
            embedding = context.original(*batch.inputs).embedding.to(exact)[known].cpu()
        numbers, labels = numbers[known].cpu(), batch.labels[known].cpu()
        return embedding, functional.one_hot(numbers, values).to(exact), weights[labels, numbers]

    centre = read(next(iter(context.batches("train", batch_size))))[0].mean(dim=0).nan_to_num()

    def sums(batch: Batch) -> Tensor:
        x, z, w = read(batch)
        both = torch.cat([x - centre, z, torch.ones_like(w)[:, None]], dim=1)
        return both.T @ (both * w[:, None])

    size = len(centre) + values + 1
    total = context.total("train", batch_size, sums, torch.zeros(size, size, dtype=exact))
    total = total / total[-1, -1]
    means, width = total[-1, :-1], len(centre)
    spread = total[:width, :-1] - means[:width, None] * means[None]
    return Moments(centre + means[:width], spread[:, width:], spread[:, :width])


def least_squares_eraser(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return LEACE's map x -> A x + b (Belrose et al., NeurIPS 2023, theorem 4.3): A (width, width), b (width,).

    A = I - W+ P W with W = cov(x, x)^(-1/2) and P the orthogonal projection onto the columns of W cov(x, z). Of all
    affine maps after which no linear probe tells z from a constant, it changes x least in mean square. Directions
    without variance stay.
    """
    eigenvalues, vectors = torch.linalg.eigh(moments.within)
    kept = eigenvalues > TINY * eigenvalues.max()
    vectors, scale = vectors[:, kept], eigenvalues[kept].sqrt()
    whiten, colour = (vectors / scale) @ vectors.T, (vectors * scale) @ vectors.T
    return _around(moments.mean, colour @ _projection(whiten @ moments.between) @ whiten)


def orthogonal_eraser(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the map that takes the columns of cov(x, z) off by an orthogonal projection: A (width, width), b."""
    return _around(moments.mean, _projection(moments.between))


def _around(mean: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    return torch.eye(len(mean), dtype=mean.dtype) - removed, removed @ mean


def _projection(columns: Tensor) -> Tensor:
    """Return the orthogonal projection onto the span of some columns."""
    basis, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes.max().clamp(min=torch.finfo(sizes.dtype).tiny)]
    return basis @ basis.T
