"""TC-ResNet: a small classifier with convolutions over time only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import LogMel


class Block(nn.Module):
    """Apply two temporal convolutions and a shortcut; the first one and the shortcut may halve the frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.first_norm = nn.BatchNorm1d(outputs)
        self.second = nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.second_norm = nn.BatchNorm1d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, frames) to (batch, outputs, frames / stride)."""
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class TCResNet(Classifier):
    """Classify by TC-ResNet8 or 14: Choi et al., Interspeech 2019.

    "Temporal Convolution for Real-time Keyword Spotting on Mobile Devices". The mel bands are the channels of the
    input. channels: of the first convolution, then of each block; a block with more channels than its input halves the
    frames. kernel: of the blocks' convolutions, in frames. stem: kernel and stride of the first convolution, in frames.
    dropout: before the head. The paper's TC-ResNet8 is channels (16, 24, 32, 48), kernel 9, stem (3, 1), dropout 0.5.
    """

    padding_counts = True  # the mean is over all frames, as in the paper

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        bands: int = 40,
        channels: Sequence[int] = (96, 128, 192),
        kernel: int = 3,
        stem: Sequence[int] = (5, 2),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.frontend = LogMel(sample_rate, bands)
        self.stem = nn.Conv1d(bands, channels[0], stem[0], stem[1], stem[0] // 2, bias=False)
        self.stem_norm = nn.BatchNorm1d(channels[0])
        pairs = pairwise(channels)
        self.blocks = nn.ModuleList(
            Block(inputs, outputs, kernel, 2 if outputs > inputs else 1) for inputs, outputs in pairs
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x = torch.relu(self.stem_norm(self.stem(features)))
        for block in self.blocks:
            x = block(x)
        embedding = self.dropout(x.mean(2))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.stem, self.stem_norm, *self.blocks, self.head]
