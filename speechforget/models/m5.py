"""M5: convolutions on the waveform itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import Samples
from speechforget.models.layers.pooling import mask_of, masked_mean

RATE = 8000  # Hz, at the first convolution (paper)
POOL = 4  # frames become one in each stage


class Stage(nn.Module):
    """Apply a convolution, batch normalisation, ReLU and the maximum over 4 frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.pool = nn.MaxPool1d(POOL, ceil_mode=True)

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, inputs, frames) to (batch, outputs, frames / stride / 4) and the new counts.

        Frames after the first counts (batch,) are 0, before and after.
        """
        kernel, stride, padding = (
            self.convolution.kernel_size[0],
            self.convolution.stride[0],
            int(self.convolution.padding[0]),
        )
        y = torch.relu(self.norm(self.convolution(x)))
        counts = ((counts + 2 * padding - kernel) // stride + 1).clamp(min=1)
        return self.pool(y * mask_of(counts, y.shape[2], y)), -(-counts // POOL)


class M5(Classifier):
    """Classify by M5: Dai et al., "Very deep convolutional neural networks for raw waveforms", ICASSP 2017.

    A convolution of 80 samples (10 ms at 8 kHz) with stride 4, then one of 3 for each further number of `channels`;
    each has batch normalisation, ReLU and a maximum over 4 frames; a mean over time. The frontend resamples to 8 kHz.
    This is the paper's M5 (0.5 M parameters by its table 1, 559 K by its structure). The M5 of PyTorch's speech command
    tutorial is smaller: channels 32, 32, 64, 64, first stride 16, 26 K parameters. Ours differs: convolutions have no
    bias, which the following normalisation would remove; frames beyond an utterance's end are silence and left out of
    the mean.
    """

    frontend: Samples

    def __init__(self, classes: int, sample_rate: int, *, channels: Sequence[int] = (128, 128, 256, 512)) -> None:
        super().__init__()
        self.frontend = Samples(sample_rate, RATE)
        self.stages = nn.ModuleList()
        inputs, kernel, stride = 1, 80, 4
        for outputs in channels:
            self.stages.append(Stage(inputs, outputs, kernel, stride))
            inputs, kernel, stride = outputs, 3, 1
        self.head = nn.Linear(inputs, classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        x, counts = features[:, None], self.frontend.frames(lengths)
        for stage in self.stages:
            x, counts = stage(x, counts)
        embedding = masked_mean(x, mask_of(counts, x.shape[2], x))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [*self.stages, self.head]
