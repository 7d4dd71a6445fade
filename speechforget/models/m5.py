"""M5: convolutions on the waveform itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import Samples
from speechforget.models.layers.pooling import mask_of, masked_mean

RATE = 8000  # Hz, of what the first convolution hears (paper)
POOL = 4  # frames become one in each stage


class Stage(nn.Module):
    """A convolution, a batch normalisation, ReLU, and the maximum over 4 frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.pool = nn.MaxPool1d(POOL, ceil_mode=True)

    def forward(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, inputs, frames), 0 behind the first counts (batch,) frames, -> (batch, outputs, frames / stride / 4), likewise, and its counts."""
        kernel, stride, padding = (
            self.convolution.kernel_size[0],
            self.convolution.stride[0],
            int(self.convolution.padding[0]),
        )
        y = torch.relu(self.norm(self.convolution(x)))
        counts = ((counts + 2 * padding - kernel) // stride + 1).clamp(min=1)
        return self.pool(y * mask_of(counts, y.shape[2], y)), -(-counts // POOL)


class M5(Classifier):
    """Dai et al., "Very deep convolutional neural networks for raw waveforms", ICASSP 2017: M5.

    A convolution of 80 samples (10 ms at 8 kHz) with stride 4, then one of 3 for each further number of `channels`; each has a batch normalisation,
    ReLU and a maximum over 4 frames; a mean over time. Whatever the corpus's sample rate, the frontend makes it 8 kHz.
    This is the paper's own M5 (0.5 M parameters by its table 1, 559 K by its structure). PyTorch's speech command tutorial calls a network M5
    whose channels are 32, 32, 64, 64 and whose first stride is 16: 26 K parameters.
    Ours differs: convolutions have no bias, which the normalisation behind them would take away anyway; frames beyond an utterance's end are silence
    and left out of the mean.
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
