"""MatchboxNet: separable temporal convolutions in residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import MFCC
from speechforget.models.layers.pooling import mask_of, masked_mean

ENDS = 128  # channels of the first convolution and of the last two (paper, table 1)


class Separable(nn.Module):
    """Apply a convolution over time per channel, one over channels per frame, and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(
            inputs, inputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=inputs, bias=False
        )
        self.over_channels = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, inputs, frames) to (batch, outputs, frames); frames where the mask is 0 are silence."""
        return self.norm(self.over_channels(self.over_time(x * mask)))


class Block(nn.Module):
    """Apply separable convolutions, each with ReLU and dropout.

    A residual block adds a projection of its input before the last ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        repeat: int = 1,
        dilation: int = 1,
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            Separable(inputs if index == 0 else outputs, outputs, kernel, dilation) for index in range(repeat)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(repeat))
        self.shortcut = (
            nn.Sequential(nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)) if residual else None
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, inputs, frames) to (batch, outputs, frames)."""
        y = x
        for index, (convolution, dropout) in enumerate(zip(self.convolutions, self.dropouts, strict=True), start=1):
            y = convolution(y, mask)
            if self.shortcut is not None and index == len(self.convolutions):
                y = y + self.shortcut(x * mask)
            y = dropout(torch.relu(y))
        return y


class MatchboxNet(Classifier):
    """Classify by MatchboxNet B x R x C: Majumdar & Ginsburg, Interspeech 2020.

    "MatchboxNet: 1D Time-Channel Separable CNN Architecture for Speech Commands Recognition". 64 MFCC; a convolution
    with 128 channels; for each of `kernels` (B of them, in frames) a residual block of `repeat` (R) convolutions with
    `channels` (C) channels; one with kernel 29 and dilation 2, one with kernel 1, both with 128 channels; a mean over
    time. Ours differs: the authors crop or pad to 128 frames and take the mean over all of them; this takes any number
    of frames and the mean over those of the utterance.
    """

    frontend: MFCC

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        kernels: Sequence[int] = (13, 15, 17),
        repeat: int = 2,
        channels: int = 64,
        coefficients: int = 64,
        bands: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.frontend = MFCC(sample_rate, coefficients, bands=bands, window=25.0)
        self.blocks = nn.ModuleList([Block(coefficients, ENDS, 11, dropout=dropout)])
        inputs = ENDS
        for kernel in kernels:
            self.blocks.append(Block(inputs, channels, kernel, repeat=repeat, residual=True, dropout=dropout))
            inputs = channels
        self.blocks.append(Block(inputs, ENDS, 29, dilation=2, dropout=dropout))
        self.tail = nn.Sequential(
            nn.Conv1d(ENDS, ENDS, 1, bias=False), nn.BatchNorm1d(ENDS), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(ENDS, classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        mask = mask_of(self.frontend.frames(lengths), features.shape[2], features)
        x = features
        for block in self.blocks:
            x = block(x, mask)
        embedding = masked_mean(self.tail(x * mask), mask)
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [*self.blocks, self.tail, self.head]
