"""x-vector: a time-delay network for speakers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.cosine_head import CosineHead
from speechforget.models.layers.frontend import LogMel
from speechforget.models.layers.pooling import VectorNorm, mask_of, masked_statistics

FRAMES = (
    (512, 5, 1),
    (512, 3, 2),
    (512, 3, 3),
    (512, 1, 1),
    (1500, 1, 1),
)  # channels, kernel, dilation of frame1 to frame5 (paper, table 1)
SEGMENT = 512  # of segment6 and segment7


class Frame(nn.Module):
    """Apply a convolution over frames, ReLU and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, inputs, frames) to (batch, outputs, frames); frames where the mask is 0 are silence."""
        return self.norm(torch.relu(self.convolution(x * mask)))


class XVector(Classifier):
    """Classify by Snyder et al., "X-vectors: Robust DNN embeddings for speaker recognition", ICASSP 2018.

    24 log-mel bands; five layers over frames (512, 512, 512, 512, 1500 channels); mean and standard deviation over
    time; two layers over the utterance (512 each). scale: of the head's cosines. Ours differs: the last layer computes
    cosines, so that a margin is possible; the paper's is a plain softmax. The embedding is the head's input; the
    paper's x-vector is the layer before, since another back-end follows. Convolutions see silence beyond both ends; the
    paper's drop 7 frames at each. There is no voice activity detection. The network is not speechbrain's, whose pooling
    adds random noise, at evaluation too.
    """

    frontend: LogMel

    def __init__(self, classes: int, sample_rate: int, *, bands: int = 24, scale: float = 30.0) -> None:
        super().__init__()
        self.frontend = LogMel(sample_rate, bands)
        self.frames = nn.ModuleList()
        inputs = bands
        for outputs, kernel, dilation in FRAMES:
            self.frames.append(Frame(inputs, outputs, kernel, dilation))
            inputs = outputs
        self.segments = nn.ModuleList(
            nn.Sequential(nn.Linear(width, SEGMENT), nn.ReLU(), VectorNorm(SEGMENT)) for width in (2 * inputs, SEGMENT)
        )
        self.head = CosineHead(SEGMENT, classes, scale)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        mask = mask_of(self.frontend.frames(lengths), features.shape[2], features)
        x = features
        for frame in self.frames:
            x = frame(x, mask)
        embedding = masked_statistics(x, mask)
        for segment in self.segments:
            embedding = segment(embedding)
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [*self.frames, *self.segments, self.head]
