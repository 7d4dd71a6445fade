"""A head that measures angles, for additive margin softmax."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class CosineHead(nn.Linear):
    """Logits are `scale` times the cosine between the embedding and each class's weights; there is no bias.

    Wang et al., "Additive Margin Softmax for Face Verification", IEEE Signal Processing Letters 2018, equation 5, whose scale is 30; its margin
    is the training recipe's (`train.margin`), and only training subtracts it.
    """

    def __init__(self, dimensions: int, classes: int, scale: float = 30.0) -> None:
        super().__init__(dimensions, classes, bias=False)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """(batch, dimensions) -> (batch, classes), from -scale to scale."""
        return self.scale * linear(normalize(input), normalize(self.weight))

    def extra_repr(self) -> str:
        """Says the scale too."""
        return f"{super().extra_repr()}, scale={self.scale}"
