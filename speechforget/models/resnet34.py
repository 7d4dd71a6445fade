"""ResNet-34 on log-mel features, for speakers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.cosine_head import CosineHead
from speechforget.models.layers.frontend import LogMel
from speechforget.models.layers.pooling import mask_of, masked_mean

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels and blocks (He et al., table 1)


class Stem(nn.Module):
    """Apply a 7 x 7 convolution and a maximum over 3 x 3; each halves bands and frames."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, outputs, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, 1, bands, frames) to a quarter of bands and frames, and give the new counts.

        Frames after the first counts (batch,) are 0, before and after.
        """
        y = torch.relu(self.norm(self.convolution(x)))
        counts = halved(counts)
        y = self.pool(y * mask_of(counts, y.shape[3], y)[:, :, None])
        counts = halved(counts)
        return y * mask_of(counts, y.shape[3], y)[:, :, None], counts


def halved(counts: Tensor) -> Tensor:
    """Halve numbers of frames, rounded up."""
    return -(-counts // 2)


class Block(nn.Module):
    """Apply two 3 x 3 convolutions and a shortcut; the first one and the shortcut may halve bands and frames."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.halves = stride == 2
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, inputs, bands, frames) to other channels, and give the new counts.

        Frames after the first counts (batch,) are 0, before and after.
        """
        y = torch.relu(self.first_norm(self.first(x)))
        counts = halved(counts) if self.halves else counts
        mask = mask_of(counts, y.shape[3], y)[:, :, None]
        return torch.relu(self.second_norm(self.second(y * mask)) + self.shortcut(x)) * mask, counts


class ResNet34(Classifier):
    """Classify by ResNet-34 with one input channel: He et al., CVPR 2016.

    "Deep residual learning for image recognition".
    Ding et al., "AutoSpeech", Interspeech 2020, train it on VoxCeleb1 as a baseline for speakers. scale: of the head's
    cosines. Ours differs from theirs: log-mel bands, not a spectrogram of 257 bins; no weights from ImageNet; the last
    layer computes cosines, so that a margin is possible; frames beyond an utterance's end are silence and left out of
    the mean. speechbrain's ResNet for speakers is another network (squeeze and excitation, 15.4 M parameters).
    """

    frontend: LogMel

    def __init__(self, classes: int, sample_rate: int, *, bands: int = 80, scale: float = 30.0) -> None:
        super().__init__()
        self.frontend = LogMel(sample_rate, bands)
        inputs = STAGES[0][0]
        self.stem = Stem(inputs)
        self.blocks = nn.ModuleList()
        for stage, (outputs, count) in enumerate(STAGES):
            for index in range(count):
                self.blocks.append(Block(inputs, outputs, 2 if stage and index == 0 else 1))
                inputs = outputs
        self.head = CosineHead(inputs, classes, scale)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x, counts = self.stem(features[:, None], self.frontend.frames(lengths))
        for block in self.blocks:
            x, counts = block(x, counts)
        embedding = masked_mean(x.mean(2), mask_of(counts, x.shape[3], x))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.stem, *self.blocks, self.head]
