"""Batch-norm whose statistics are those of the whole batch, over all ranks.

torch's own SyncBatchNorm does this on GPUs only. With one rank, or where each holds the whole batch (`ranks.alone`), this is torch's batch-norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget import ranks


class GlobalBatchNorm(_BatchNorm):
    """A batch-norm of any number of dimensions, for inputs (batch, features, ...)."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape that has features."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by the batch of all ranks where torch's batch-norm would by the batch of this one."""
        by_batch = self.training or self.running_mean is None
        if ranks.world() == 1 or not by_batch:
            return super().forward(input)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        over = [0, *range(2, input.dim())]
        x = input.double() if input.dtype == torch.float64 else input.float()
        count = ranks.total(torch.tensor(x.numel() / x.shape[1], dtype=torch.float64, device=x.device)).to(x.dtype)
        mean = ranks.differentiable_total(x.sum(over)) / count
        centred = x - mean.view(shape)
        variance = ranks.differentiable_total(centred.square().sum(over)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as torch's batch-norm does."""
        if not (self.training and self.track_running_stats) or self.running_mean is None or self.running_var is None:
            return
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), float(factor or 0.0))
        self.running_var.lerp_(variance.to(self.running_var.dtype), float(factor or 0.0))


def globalised(model: nn.Module) -> nn.Module:
    """The model with every batch-norm replaced by a global one that holds the same parameters and buffers."""
    if isinstance(model, _BatchNorm) and not isinstance(model, GlobalBatchNorm):
        norm = GlobalBatchNorm(model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats)
        norm.weight, norm.bias = model.weight, model.bias
        norm.running_mean, norm.running_var = model.running_mean, model.running_var
        norm.num_batches_tracked = model.num_batches_tracked
        return norm.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, globalised(child))
    return model
