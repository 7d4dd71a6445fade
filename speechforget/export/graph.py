"""The model as other programs call it: waveforms of any length in, logits and embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechforget.export.source import Unsupported

TOLERANCE = 1e-4  # largest difference of outputs, as a share of the largest output where that is above 1
Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Graph(nn.Module):
    """Compute logits and embedding of the middle `width` samples of each waveform; shorter ones are padded.

    These are the crops of `Recogniser` with windows=middle. So neither padding nor batch mates change an answer, and
    all sizes inside of the classifier are fixed, but that of the batch.
    """

    def __init__(self, classifier: nn.Module, width: int) -> None:
        super().__init__()
        self.classifier, self.width = classifier, width

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map waveform (batch, samples) in [-1, 1] and lengths (batch,) in samples to logits and embeddings."""
        silence = waveform.new_zeros(waveform.shape[0], self.width)
        start = torch.div((lengths - self.width).clamp(min=0), 2, rounding_mode="floor")
        places = start[:, None] + torch.arange(self.width, device=waveform.device)
        heard = torch.gather(torch.cat([waveform, silence], dim=1), 1, places)
        output = self.classifier(heard, lengths.clamp(max=self.width))
        return output.logits, output.embedding


class Agreement(NamedTuple):
    """Say how two forms of one model agree: the largest difference of their outputs, and on what it was measured."""

    largest_difference: float
    recordings: int
    batches: int


def batches(clips: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield padded batches of clips (samples,) and their lengths: one clip, two, three, and so on; then all at once."""
    start, size = 0, 1
    while start < len(clips):
        yield padded(clips[start : start + size])
        start, size = start + size, size + 1
    yield padded(clips)


def padded(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad clips to the longest one: waveform (batch, samples), lengths (batch,)."""
    lengths = torch.tensor([len(clip) for clip in clips])
    return nn.utils.rnn.pad_sequence(list(clips), batch_first=True), lengths


@torch.no_grad()
def agreement(reference: Run, other: Run, clips: Sequence[Tensor]) -> Agreement:
    """Compare two forms of a model on batches of several sizes and lengths.

    Raises Unsupported if the other form fails, or differs by more than `TOLERANCE`.
    """
    largest = 0.0
    steps = list(batches(clips))
    for waveform, lengths in steps:
        expected = reference(waveform, lengths)
        try:
            found = other(waveform, lengths)
        except Exception as error:  # dozens of types, of two runtimes
            reason = str(error).strip().splitlines()[-1]
            raise Unsupported(f"it fails on {len(lengths)} recordings at once ({reason.rstrip('.')})") from error
        for right, theirs in zip(expected, found, strict=True):
            difference = float((right - theirs).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(right.abs().max())):
                raise Unsupported(f"its outputs differ from PyTorch's by {difference:.2g}")
            largest = max(largest, difference)
    return Agreement(largest, len(clips), len(steps))
