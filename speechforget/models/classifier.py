"""The interface of a classifier: waveforms in, logits and an embedding out. The frontend is part of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """Hold logits (batch, classes) and embedding (batch, dimensions), the input of the head."""

    logits: Tensor
    embedding: Tensor


class Classifier(nn.Module):
    """Map waveforms to logits and embeddings.

    A subclass sets `frontend` and `head`, and defines `classify` and `layers`.

    frontend: (waveform (batch, samples) float32 in [-1, 1], lengths (batch,) in samples, spans) -> features. Samples
    beyond lengths never change them. head: maps the embedding to logits. padding_counts: whether the amount of padding
    changes the outputs; then all batches must have one length.
    """

    padding_counts: bool = False
    frontend: nn.Module
    head: nn.Linear

    def forward(
        self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None, features: Tensor | None = None
    ) -> Output:
        """Compute logits and embedding of waveform (batch, samples) float32 in [-1, 1]; lengths (batch,) in samples.

        spans: SpecAugment's rectangles as fractions of each axis, (batch, 2, masks, 2): [frequency, time] x mask x
        [start, end]; None: no rectangles. features: used instead of the frontend's output where given.
        """
        return self.classify(self.frontend(waveform, lengths, spans) if features is None else features, lengths)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """Compute logits and embedding from the frontend's features; lengths (batch,) in samples."""
        raise NotImplementedError

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Mark the cells of the features that lie within an utterance: bool, size 1 along the other axes.

        lengths: (batch,) in samples. Time is the last axis of the features here; a subclass overrides this for another
        axis.
        """
        frames = getattr(self.frontend, "frames", None)
        counts = frames(lengths) if callable(frames) else lengths
        inside = torch.arange(features.shape[-1], device=features.device) < counts.to(features.device)[:, None]
        return inside.view(len(features), *[1] * (features.dim() - 2), -1)

    def layers(self) -> list[nn.Module]:
        """List the layers with weights in execution order, the head last."""
        raise NotImplementedError
