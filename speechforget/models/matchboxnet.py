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
    """A convolution over time for each channel, one over channels for each frame, and a batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(
            inputs, inputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=inputs, bias=False
        )
        self.over_channels = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, inputs, frames) -> (batch, outputs, frames); what a mask of 0 covers is silence."""
        return self.norm(self.over_channels(self.over_time(x * mask)))


class Block(nn.Module):
    """Separable convolutions, each with ReLU and dropout; a projection of the input is added before the last ReLU where the block is residual."""

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
        """(batch, inputs, frames) -> (batch, outputs, frames)."""
        y = x
        for index, (convolution, dropout) in enumerate(zip(self.convolutions, self.dropouts, strict=True), start=1):
            y = convolution(y, mask)
            if self.shortcut is not None and index == len(self.convolutions):
                y = y + self.shortcut(x * mask)
            y = dropout(torch.relu(y))
        return y


class MatchboxNet(Classifier):
    """Majumdar & Ginsburg, "MatchboxNet: 1D Time-Channel Separable CNN Architecture for Speech Commands Recognition", Interspeech 2020: B x R x C.

    A convolution with 128 channels; for each of `kernels` (B of them, in frames) a residual block of `repeat` (R) convolutions with `channels` (C)
    channels; one with kernel 29 and dilation 2, one with kernel 1, both with 128 channels; a mean over time. Of 64 MFCC.
    Ours differs in the ends: the authors crop or pad to 128 frames and take the mean over all of them; this takes any number of frames and
    the mean over those that hold sound.
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
