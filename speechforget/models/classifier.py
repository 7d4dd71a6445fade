"""What a classifier is: waveforms in, logits and an embedding out. The frontend is part of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """logits (batch, classes) and embedding (batch, dimensions): what the head saw."""

    logits: Tensor
    embedding: Tensor


class Classifier(nn.Module):
    """What every classifier is; one sets `frontend` and `head` and defines `classify` and `layers`.

    frontend: (waveform (batch, samples) float32 in [-1, 1], lengths (batch,) in samples, spans) -> features; what lies beyond lengths never matters.
    head: logits from the embedding.
    padding_counts: whether the amount of silence that fills a batch up changes the outputs; then batches must all be of one length.
    """

    padding_counts: bool = False
    frontend: nn.Module
    head: nn.Linear

    def forward(
        self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None, features: Tensor | None = None
    ) -> Output:
        """Logits and embedding of waveform (batch, samples) float32 in [-1, 1], with lengths (batch,) in samples.

        spans: SpecAugment's rectangles as fractions of each axis, (batch, 2, masks, 2): [frequency, time] x mask x [start, end]; None for none.
        features: what the frontend made of the waveform, changed or not, to be used instead of doing that again.
        """
        return self.classify(self.frontend(waveform, lengths, spans) if features is None else features, lengths)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """Logits and embedding from the frontend's features; lengths (batch,) in samples."""
        raise NotImplementedError

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Which cells of the features hold sound of an utterance, bool, with size 1 along axes that do not matter; lengths (batch,) in samples.

        Time is the features' last axis here; a classifier whose frontend has it elsewhere says so by overriding this.
        """
        frames = getattr(self.frontend, "frames", None)
        counts = frames(lengths) if callable(frames) else lengths
        inside = torch.arange(features.shape[-1], device=features.device) < counts.to(features.device)[:, None]
        return inside.view(len(features), *[1] * (features.dim() - 2), -1)

    def layers(self) -> list[nn.Module]:
        """The layers with weights in execution order, the head last."""
        raise NotImplementedError
