"""A head of cosines, for additive margin softmax."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class CosineHead(nn.Linear):
    """Compute logits: `scale` times the cosine between the embedding and each class's weights, without a bias.

    Wang et al., "Additive Margin Softmax for Face Verification", IEEE Signal Processing Letters 2018, equation 5 (scale
    30). The margin belongs to the training recipe (`train.margin`); only training subtracts it.
    """

    def __init__(self, dimensions: int, classes: int, scale: float = 30.0) -> None:
        super().__init__(dimensions, classes, bias=False)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, dimensions) to (batch, classes), from -scale to scale."""
        return self.scale * linear(normalize(input), normalize(self.weight))

    def extra_repr(self) -> str:
        """Add the scale."""
        return f"{super().extra_repr()}, scale={self.scale}"
