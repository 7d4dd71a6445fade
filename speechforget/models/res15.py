"""res8, res15 and res26: residual networks of 3 x 3 convolutions over MFCC."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechforget.errors import UserError, nearest
from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import MFCC
from speechforget.models.layers.pooling import mask_of, masked_mean


class Variant(NamedTuple):
    """Describe the convolutions after the first one: their number, and whether every third doubles the dilation.

    pool: the (coefficients, frames) averaged after the first convolution.
    """

    convolutions: int
    dilated: bool
    pool: tuple[int, int]


VARIANTS = {  # paper and authors' code
    "res8": Variant(6, False, (3, 4)),
    "res15": Variant(13, True, (1, 1)),
    "res26": Variant(24, False, (2, 2)),
}


class Step(nn.Module):
    """Apply a convolution, ReLU, the addition of `carried` where given, and batch normalisation without weights."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, channels, coefficients, frames) to the same shape, normalised and before normalisation."""
        y = torch.relu(self.convolution(x * mask))
        y = y if carried is None else y + carried
        return self.norm(y), y


class Res15(Classifier):
    """Classify by res8, res15 or res26 (`variant`): Tang & Lin, ICASSP 2018.

    "Deep residual learning for small-footprint keyword spotting". 40 MFCC up to 4 kHz; a convolution; pairs of
    convolutions, each with its input added before normalisation (as in the authors' code); in res15 one more
    convolution; a mean over coefficients and frames. channels: 45, or 19 for the paper's narrow variants. Ours differs:
    frames beyond an utterance's end are silence to every convolution and left out of the mean; the authors pad each
    utterance to a second. Raises UserError for an unknown variant.
    """

    frontend: MFCC

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        variant: str = "res15",
        channels: int = 45,
        coefficients: int = 40,
        bands: int = 40,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"model.variant '{variant}' is unknown: {nearest(variant, VARIANTS)}")
        count, dilated, pool = VARIANTS[variant]
        self.pooled = pool[1]
        self.frontend = MFCC(sample_rate, coefficients, bands=bands, window=30.0, high=4000.0)
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(pool))
        self.steps = nn.ModuleList(Step(channels, 2 ** (index // 3) if dilated else 1) for index in range(count))
        self.head = nn.Linear(channels, classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x = carried = self.stem(features[:, None])
        mask = mask_of((self.frontend.frames(lengths) // self.pooled).clamp(min=1), x.shape[3], x)
        over_all = mask[:, :, None]
        for number, step in enumerate(self.steps, start=1):
            if number % 2:
                x, _ = step(x, over_all)
            else:
                x, carried = step(x, over_all, carried)
        embedding = masked_mean(x.mean(2), mask)
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.stem, *self.steps, self.head]
