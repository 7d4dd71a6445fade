"""Add random noise to all weights once, without using forget or retain: a control.

Compare a method with noise of the same size: the difference comes from the direction of the method's change, not from
its length.

    theta_u = theta_o + c * s_i * e,   e ~ N(0, 1),   s_i: standard deviation of the weights of tensor i

| symbol | meaning                                                                                                |
|--------|--------------------------------------------------------------------------------------------------------|
| c      | `size`; with `match`, the factor that makes the norm of the whole change `match` times the norm of all |
|        | trainable weights                                                                                      |
| s_i    | over the entries of the tensor, so that the noise is in proportion to each layer's weights             |
| e      | drawn from the run's seed only                                                                         |

Tensors with equal entries, such as a scale that was never trained, have s = 0 and keep their value. Running statistics
are not weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.methods.base.method import Context, Method
from speechforget.seeding import seed_from


class Noise(Method):
    """Perturb the weights once."""

    needs = frozenset()

    def __init__(self, size: float = 0.0, match: float | None = None) -> None:
        super().__init__()
        if size < 0 or (match is not None and match < 0):
            raise UserError(f"size and match must be at least 0, not {size} and {match}.")
        self.size, self.match = size, match

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Add the noise."""
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        change = perturbation(weights, context.seed)
        factor = self.size
        if self.match is not None:
            factor = self.match * norm(weights) / max(norm(change), torch.finfo(torch.float64).tiny)
        for weight, step in zip(weights, change, strict=True):
            weight.add_(factor * step)


def perturbation(weights: list[nn.Parameter], seed: int) -> list[Tensor]:
    """Draw standard normal noise for each tensor, times the standard deviation of the tensor's entries.

    The draws are on the CPU, so they are the same for every device.
    """
    generator = torch.Generator().manual_seed(seed_from(seed, "noise"))
    draws = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    return [draw.to(weight) * weight.std(correction=0) for weight, draw in zip(weights, draws, strict=True)]


def norm(tensors: list[Tensor] | list[nn.Parameter]) -> float:
    """Compute the Euclidean norm of all entries together."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5
