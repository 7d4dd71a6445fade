"""Define the batches that models and methods take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch of utterances for a classifier: `classifier(*batch.inputs)`.

    inputs: arguments of the classifier's `forward`. For speech: waveform (batch, samples) float32 in [-1, 1], lengths
        (batch,) in samples and, with SpecAugment, spans (see `models.layers.frontend`).
    labels: (batch,) int64 class numbers.
    rows: (batch,) int64 row numbers in the corpus table; every random draw depends on them.
    forget: (batch,) bool, whether the utterance is in the request.
    weights: (batch,) float64, the weight of each utterance in the mean over the step's batch, if this rank has a share
        of that batch; None if it has the whole batch. `losses.mean` applies them.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    forget: Tensor
    weights: Tensor | None = None


class Pair(NamedTuple):
    """A forget batch and a retain batch, for methods that need both in one step. Both are whole, or both are shares.

    forget: None once the forget stream of a pass has ended (`Pass.again`).
    """

    forget: Batch | None
    retain: Batch


def halves(batch: Batch | Pair) -> tuple[Batch, ...]:
    """Return the batches of a step: one, or both of a pair."""
    if isinstance(batch, Pair):
        return (batch.retain,) if batch.forget is None else (batch.forget, batch.retain)
    return (batch,)


def nothing() -> Batch:
    """Return a batch without data, for methods that bring their own."""
    return Batch(
        (), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.bool)
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with all tensors on the device."""
    if batch.labels.device == device and all(tensor.device == device for tensor in batch.inputs):
        return batch
    weights = None if batch.weights is None else batch.weights.to(device)
    labels, rows, forget = (tensor.to(device) for tensor in (batch.labels, batch.rows, batch.forget))
    return Batch(tuple(tensor.to(device) for tensor in batch.inputs), labels, rows, forget, weights)


def cut(batch: Batch, start: int, end: int) -> Batch:
    """Return some utterances of a whole batch, as views."""
    inputs = tuple(tensor[start:end] for tensor in batch.inputs)
    return Batch(inputs, batch.labels[start:end], batch.rows[start:end], batch.forget[start:end])


def is_whole(batch: Batch | Pair) -> bool:
    """Return whether this rank has the whole batch of the step."""
    return halves(batch)[0].weights is None
