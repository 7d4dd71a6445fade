"""Noise: a control that perturbs all weights once, at random, and knows neither forget nor retain.

What a method gains over noise of the same size is what it owes to the direction of its change rather than to its length.

    theta_u = theta_o + c * s_i * e,   e ~ N(0, 1),   s_i: standard deviation of the weights of tensor i

| symbol | argument                                                                                                            |
|--------|---------------------------------------------------------------------------------------------------------------------|
| c      | `size`; with `match`, whatever makes the norm of the whole change `match` times the norm of all weights that can move |
| s_i    | over the entries of the tensor, so that no layer drowns in noise that another would not notice                      |

Tensors whose entries are all alike, such as a scale that was never trained, have s = 0 and keep their value. Running statistics are no weights.
The draws depend on the run's seed alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.methods.base.method import Context, Method
from speechforget.seeding import seed_from


class Noise(Method):
    """One perturbation and nothing else."""

    needs = frozenset()

    def __init__(self, size: float = 0.0, match: float | None = None) -> None:
        super().__init__()
        if size < 0 or (match is not None and match < 0):
            raise UserError(f"size and match are sizes, and so at least 0, not {size} and {match}.")
        self.size, self.match = size, match

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Adds the noise."""
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        change = perturbation(weights, context.seed)
        factor = self.size
        if self.match is not None:
            factor = self.match * norm(weights) / max(norm(change), torch.finfo(torch.float64).tiny)
        for weight, step in zip(weights, change, strict=True):
            weight.add_(factor * step)


def perturbation(weights: list[nn.Parameter], seed: int) -> list[Tensor]:
    """For each tensor standard normal draws times the standard deviation of its entries; drawn on the CPU, so that every device sees the same."""
    generator = torch.Generator().manual_seed(seed_from(seed, "noise"))
    draws = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
    return [draw.to(weight) * weight.std(correction=0) for weight, draw in zip(weights, draws, strict=True)]


def norm(tensors: list[Tensor] | list[nn.Parameter]) -> float:
    """The Euclidean norm of all entries together."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5
