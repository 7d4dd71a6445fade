"""Pool frames to one vector per utterance, and normalise such vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.distributed import collectives

SMALLEST = 1e-5  # smallest variance of a standard deviation, so that its gradient stays finite


def mask_of(counts: Tensor, frames: int, like: Tensor) -> Tensor:
    """Make a mask (batch, 1, frames), 1 for the first counts (batch,) frames, else 0; its dtype is that of `like`."""
    return (torch.arange(frames, device=counts.device) < counts[:, None])[:, None].to(like.dtype)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average x (batch, channels, frames) over the frames where mask (batch, 1, frames) is 1: (batch, channels)."""
    return (x * mask).sum(2) / mask.sum(2)


def masked_statistics(x: Tensor, mask: Tensor) -> Tensor:
    """Compute mean and standard deviation over the frames where mask is 1: (batch, 2 * channels)."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, :, None]).square(), mask)
    return torch.cat([mean, variance.clamp(min=SMALLEST).sqrt()], dim=1)


class VectorNorm(nn.Module):
    """Apply batch normalisation to one vector per utterance, (batch, features) or (batch, features, 1).

    A batch of a single utterance has no variance, and torch refuses it. A request for one recording makes such batches:
    they are normalised by the running statistics, which stay unchanged.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        if not (self.training and len(x) == 1 and collectives.world() == 1):
            return self.norm(x)
        norm = self.norm
        return nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
