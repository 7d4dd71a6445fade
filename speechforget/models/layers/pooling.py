"""What models share that make one vector of an utterance: means that mind lengths, and a norm for single vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.distributed import collectives

SMALLEST = 1e-5  # variance below which a standard deviation is not told apart from 0, so that its gradient stays finite


def mask_of(counts: Tensor, frames: int, like: Tensor) -> Tensor:
    """(batch, 1, frames), 1 for the first counts (batch,) frames and 0 for the others; in the kind of number that `like` holds."""
    return (torch.arange(frames, device=counts.device) < counts[:, None])[:, None].to(like.dtype)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean (batch, channels) of x (batch, channels, frames) over the frames where mask (batch, 1, frames) is 1."""
    return (x * mask).sum(2) / mask.sum(2)


def masked_statistics(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation, (batch, 2 * channels), over the frames where mask is 1."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, :, None]).square(), mask)
    return torch.cat([mean, variance.clamp(min=SMALLEST).sqrt()], dim=1)


class VectorNorm(nn.Module):
    """Batch normalisation of one vector an utterance, (batch, features) or (batch, features, 1).

    A batch of a single utterance has no variance, and torch refuses it; a request for one recording makes such batches. They are normalised by
    the running statistics and leave these as they are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if not (self.training and len(x) == 1 and collectives.world() == 1):
            return self.norm(x)
        norm = self.norm
        return nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
