"""Batch-norm with the statistics of the whole batch, over all ranks.

torch's SyncBatchNorm does this on GPUs only. With one rank, or where each rank has the whole batch
(`collectives.alone`), this is torch's batch-norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.distributed import collectives


class _Normalise(torch.autograd.Function):
    """Batch normalisation (Ioffe & Szegedy, ICML 2015) with one sum over ranks in each direction.

    Statistics are summed in float64, so that the mean square minus the squared mean keeps the precision of the input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        over = [0, *range(2, x.dim())]
        variance, mean = (part.double() for part in torch.var_mean(x, over, correction=0))
        size = torch.full_like(mean[:1], x.numel() / x.shape[1])
        count, mean, square = collectives.total(
            torch.cat([size, size * mean, size * (variance + mean.square())])
        ).split([1, len(mean), len(mean)])
        mean = mean / count
        variance = (square / count - mean.square()).clamp(min=0)
        scale = torch.rsqrt(variance + eps).to(x.dtype)
        normal = (x - _along(mean.to(x.dtype), x)) * _along(scale, x)
        ctx.save_for_backward(normal, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normal, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        normal, scale, count = ctx.saved_tensors
        over = [0, *range(2, normal.dim())]
        sums = torch.cat([gradient.sum(over), (gradient * normal).sum(over)])
        first, second = (collectives.total(sums.double()) / count).to(normal.dtype).chunk(2)
        return _along(scale, normal) * (gradient - _along(first, normal) - normal * _along(second, normal)), None


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per feature to broadcast over (batch, features, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


class GlobalBatchNorm(_BatchNorm):
    """Batch-norm over all ranks, for inputs (batch, features, ...) of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any shape that has features."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the batch of all ranks where torch's batch-norm uses the batch of one rank."""
        by_batch = self.training or self.running_mean is None
        if collectives.world() == 1 or not by_batch:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        y, mean, variance, count = _Normalise.apply(x, self.eps)
        self._remember(mean, variance * count / (count - 1).clamp(min=1))
        if self.affine:
            y = y * _along(self.weight, y) + _along(self.bias, y)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch's batch-norm does."""
        if not (self.training and self.track_running_stats) or self.running_mean is None or self.running_var is None:
            return
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), float(factor or 0.0))
        self.running_var.lerp_(variance.to(self.running_var.dtype), float(factor or 0.0))


def globalised(model: nn.Module) -> nn.Module:
    """Replace every batch-norm of the model by a global one with the same parameters and buffers."""
    if isinstance(model, _BatchNorm) and not isinstance(model, GlobalBatchNorm):
        norm = GlobalBatchNorm(model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats)
        norm.weight, norm.bias = model.weight, model.bias
        norm.running_mean, norm.running_var = model.running_mean, model.running_var
        norm.num_batches_tracked = model.num_batches_tracked
        return norm.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, globalised(child))
    return model
