"""What a classifier is: waveforms in, logits and an embedding out. The frontend is part of it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Output(NamedTuple):
    """logits (batch, classes) and embedding (batch, dimensions): what the head saw."""

    logits: Tensor
    embedding: Tensor


class Classifier(Protocol):
    """forward(waveform (batch, samples) float32 in [-1, 1], lengths (batch,) in samples, spans) -> Output.

    spans: SpecAugment's rectangles as fractions of each axis, (batch, 2, masks, 2): [frequency, time] x mask x [start, end]; None for none.
    """

    head: nn.Linear

    def __call__(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Output:
        """Logits and embedding of a batch."""
        ...

    def layers(self) -> list[nn.Module]:
        """The layers with weights in execution order, the head last."""
        ...
