"""The one shape in which data meets models and methods."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Some utterances, ready for a classifier: `classifier(*batch.inputs)`.

    inputs: what the classifier's `forward` takes. For speech (waveform (batch, samples) float32 in [-1, 1], lengths (batch,)
        in samples) and, where SpecAugment is on, spans (see `models/frontend.py`).
    labels: (batch,) int64 class numbers.
    rows: (batch,) int64 utterance numbers in the corpus table; every random draw is made from them.
    forget: (batch,) bool, true where the utterance is in the request.
    weights: (batch,) float64, what each utterance counts in the mean over the step's batch where this rank holds a share of it; None where it
        holds the whole batch. Losses take their mean by `losses.mean`, which minds this.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    forget: Tensor
    weights: Tensor | None = None


class Pair(NamedTuple):
    """A forget batch beside a retain batch, for methods that need both in one step; both are shared out over ranks, or both are whole.

    forget: None in a pass whose forget half is used up (`Pass.again`).
    """

    forget: Batch | None
    retain: Batch


def halves(batch: Batch | Pair) -> tuple[Batch, ...]:
    """The batches of a step: one, or both of a pair."""
    if isinstance(batch, Pair):
        return (batch.retain,) if batch.forget is None else (batch.forget, batch.retain)
    return (batch,)


def nothing() -> Batch:
    """A batch without data, for steps of methods that bring their own."""
    return Batch(
        (), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.bool)
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with all its tensors on the device."""
    if batch.labels.device == device and all(tensor.device == device for tensor in batch.inputs):
        return batch
    weights = None if batch.weights is None else batch.weights.to(device)
    labels, rows, forget = (tensor.to(device) for tensor in (batch.labels, batch.rows, batch.forget))
    return Batch(tuple(tensor.to(device) for tensor in batch.inputs), labels, rows, forget, weights)


def cut(batch: Batch, start: int, end: int) -> Batch:
    """Some of a whole batch's utterances, as views."""
    inputs = tuple(tensor[start:end] for tensor in batch.inputs)
    return Batch(inputs, batch.labels[start:end], batch.rows[start:end], batch.forget[start:end])


def is_whole(batch: Batch | Pair) -> bool:
    """Whether this rank holds the whole batch of the step."""
    return halves(batch)[0].weights is None
