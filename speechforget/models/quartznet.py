"""QuartzNet: separable temporal convolutions in residual blocks, with logits for each frame."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from speechforget.models.classifier import Output
from speechforget.models.layers.frontend import LogMel
from speechforget.models.layers.pooling import mask_of
from speechforget.models.matchboxnet import Block
from speechforget.models.transcriber import Transcriber

STRIDE = 2  # of the first convolution


class QuartzNet(Transcriber):
    """Transcribe by QuartzNet: Kriman et al., ICASSP 2020.

    "QuartzNet: Deep automatic speech recognition with 1D time-channel separable convolutions". A convolution with
    stride 2 makes frames of 20 ms. For each of `kernels` (frames) follows a residual block of `repeat` separable
    convolutions; then comes one with kernel 1. Ours differs: it is small, and its first and last convolutions are not
    separable.
    """

    frontend: LogMel

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        kernels: Sequence[int] = (11, 13, 15, 17, 19),
        repeat: int = 2,
        channels: int = 128,
        bands: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.frontend = LogMel(sample_rate, bands)
        self.stem = nn.Sequential(
            nn.Conv1d(bands, channels, 11, stride=STRIDE, padding=5, bias=False), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            Block(channels, channels, kernel, repeat=repeat, residual=True, dropout=dropout) for kernel in kernels
        )
        self.tail = nn.Sequential(
            nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(channels, classes)

    def counts(self, lengths: Tensor) -> Tensor:
        """See `Transcriber`."""
        return (self.frontend.frames(lengths) - 1) // STRIDE + 1

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x = self.stem(features)
        mask = mask_of(self.counts(lengths), x.shape[2], x)
        for block in self.blocks:
            x = block(x, mask)
        return self.spelled(self.tail(x * mask), lengths)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.stem, *self.blocks, self.tail, self.head]
