"""BC-ResNet: broadcast the result of temporal convolutions back over frequency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import LogMel

SUB_BANDS = 5
STAGES = (
    (2, 1, 1),
    (2, 2, 2),
    (4, 2, 4),
    (4, 1, 8),
)  # blocks, stride over frequency, dilation over time (paper, table 1)
WIDTHS = (1.0, 1.5, 2.0, 2.5)  # of each stage, in units of the base width


class SubSpectralNorm(nn.Module):
    """Normalise each of 5 groups of neighbouring bands separately (Chang et al., ICASSP 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels * SUB_BANDS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, bands, frames), bands a multiple of 5, to the same shape."""
        batch, channels, bands, frames = x.shape
        return self.norm(x.reshape(batch, channels * SUB_BANDS, bands // SUB_BANDS, frames)).reshape(x.shape)


class Block(nn.Module):
    """Compute y = x + f2(x) + BC(f1(mean over bands of f2(x))) (paper, equation 3).

    A transition, which is a block that changes the width, has no `x +`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.transition = inputs != outputs
        widen = (
            [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()] if self.transition else []
        )
        self.over_frequency = nn.Sequential(
            *widen,
            nn.Conv2d(outputs, outputs, (3, 1), (stride, 1), (1, 0), groups=outputs, bias=False),
            SubSpectralNorm(outputs),
        )
        self.over_time = nn.Sequential(
            nn.Conv1d(outputs, outputs, 3, padding=dilation, dilation=dilation, groups=outputs, bias=False),
            nn.BatchNorm1d(outputs),
            nn.SiLU(),
            nn.Conv1d(outputs, outputs, 1, bias=False),
            nn.Dropout1d(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, bands, frames) to (batch, outputs, bands / stride, frames)."""
        y = self.over_frequency(x)
        y = y + self.over_time(y.mean(2))[:, :, None]
        return torch.relu(y if self.transition else y + x)


class BCResNet(Classifier):
    """Classify by BC-ResNet-`width`: Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting".

    Interspeech 2021. width: multiplies the base width of 8 channels (paper: 1, 1.5, 2, 3, 6, 8). bands: a multiple of
    40. dropout: of whole channels, in each block. Raises UserError for another number of bands.
    """

    padding_counts = True  # the mean is over all frames, as in the paper

    def __init__(
        self, classes: int, sample_rate: int, *, width: float = 1.0, bands: int = 40, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if bands % 40:
            raise UserError(f"BC-ResNet needs a multiple of 40 mel bands, not {bands}: set model.bands to 40 or 80.")
        base = 8 * width
        widths = [int(base * factor) for factor in WIDTHS]
        stem = int(base * 2)
        self.frontend = LogMel(sample_rate, bands)
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 5, (2, 1), 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.blocks = nn.ModuleList()
        inputs = stem
        for outputs, (count, stride, dilation) in zip(widths, STAGES, strict=True):
            for index in range(count):
                self.blocks.append(Block(inputs, outputs, stride if index == 0 else 1, dilation, dropout))
                inputs = outputs
        last = int(base * 4)
        self.tail = nn.Sequential(
            nn.Conv2d(inputs, inputs, (bands // 8, 5), padding=(0, 2), groups=inputs, bias=False),
            nn.Conv2d(inputs, last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
        )
        self.head = nn.Linear(last, classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x = self.stem(features[:, None])
        for block in self.blocks:
            x = block(x)
        embedding = self.tail(x).mean((2, 3))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.stem, *self.blocks, self.tail, self.head]
