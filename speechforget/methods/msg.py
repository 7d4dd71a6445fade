"""Reset the weights that distinguish forget from retain least, then fine-tune on retain.

MSG (masked small gradients): second place (kookmin) of the NeurIPS 2023 machine unlearning challenge. Compared in
Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari & Haddadi, "Deep unlearn: benchmarking machine unlearning", 2024.

    g = gradient at theta_o of  E_{D_r'} l(x, y) - E_{D_f} l(x, y),   D_r' in D_r with |D_r'| = |D_f|
    R = in each convolution and linear layer, the floor(q * n) of its n weights with the smallest |g|
    theta_R <- random
    min_theta  E_{D_r} l(x, y; theta),  the gradients of those layers' other weights times c

| symbol | meaning                                                                                                 |
|--------|---------------------------------------------------------------------------------------------------------|
| l      | cross-entropy in nats; in g of the original in evaluation mode, `mask_batch_size` utterances at once    |
| D_r'   | drawn once from the run's seed; all of retain if it is smaller than forget                              |
| q      | `reset_share`, of each layer's own weights; biases and normalisations are never reset                   |
| random | the architecture's own start (`context.fresh`); the public code draws by He's rule                      |
| c      | `kept_factor`; biases and normalisations keep their whole gradient                                      |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`; the challenge uses `linear`, changed in each |
|        | step                                                                                                    |

Differences from the public code:
- It resets convolutions only. Here linear layers are reset too: a transformer has little else.
- It samples D_r' again in each of its epochs over forget. Here D_r' is fixed.

Adam divides gradients by their size, which cancels a constant factor. So `kept_factor` needs SGD.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechforget import seeding
from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context
from speechforget.methods.common.importance import pieces, top
from speechforget.methods.common.layers import kernels, refuse_low_rank
from speechforget.methods.common.losses import cross_entropy


class MSG(Epochs):
    """Reset a share of all kernels, then train on retain for some epochs."""

    kept: Tensor

    def __init__(self, reset_share: float, kept_factor: float, mask_batch_size: int, **epochs: Any) -> None:
        super().__init__(**epochs)
        if not 0 <= reset_share <= 1:
            raise UserError(
                f"reset_share, the share of each layer's weights to reset, must be from 0 to 1, not {reset_share}."
            )
        if kept_factor != 1 and self.optimizer.get("name") != "sgd":
            raise UserError(
                "kept_factor scales gradients, and Adam cancels that: use method.optimizer.name=sgd, or kept_factor=1."
            )
        self.reset_share, self.kept_factor, self.mask_batch_size = reset_share, kept_factor, mask_batch_size

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Reset the weights with the smallest |g|.

        Marks the other kernel weights in `kept`, flat in the order of `parameters()`.
        """
        refuse_low_rank(self.trainable, "MSG")
        fresh = context.fresh()
        telling = difference(context, self.mask_batch_size)
        kept = {id(weight): torch.zeros_like(weight, dtype=torch.bool) for weight in student.parameters()}
        for name, weight in kernels(student).items():
            reset = top(-telling[name].abs().reshape(-1), self.reset_share).view_as(weight)
            weight.copy_(torch.where(reset, fresh.get_parameter(f"{name}.weight"), weight))
            kept[id(weight)] = ~reset
        self.register_buffer("kept", torch.cat([mask.reshape(-1) for mask in kept.values()]))

    def after_backward(self, student: nn.Module) -> None:
        """Scale the gradients of kept kernel weights."""
        weights = list(student.parameters())
        for weight, kept in zip(weights, pieces(self.kept, weights), strict=True):
            if weight.grad is not None:
                weight.grad = torch.where(kept, self.kept_factor * weight.grad, weight.grad)


def difference(context: Context, batch_size: int) -> dict[str, Tensor]:
    """Compute g of each trainable convolution and linear layer, by its name, in the shape of its weight."""
    model = copy.deepcopy(context.original).eval()
    weights = kernels(model)

    def gradient(batch: Batch) -> Tensor:
        """Compute the flat gradient of the summed cross-entropy, with the number of utterances appended."""
        with torch.enable_grad():
            loss = cross_entropy(model(*batch.inputs).logits, batch.labels).sum()
        parts = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True, allow_unused=True)
        return torch.cat([*(part.reshape(-1) for part in parts), parts[0].new_tensor([len(batch.labels)])])

    zero = torch.cat(
        [
            *(torch.zeros_like(weight).reshape(-1) for weight in weights.values()),
            next(iter(weights.values())).new_zeros(1),
        ]
    )
    forget = context.total("forget", batch_size, gradient, zero)
    rows = drawn(context, batch_size, int(forget[-1]))
    retain = context.total("retain", batch_size, only(rows, gradient, zero), zero)
    mean = retain[:-1] / retain[-1] - forget[:-1] / forget[-1]
    split = torch.split(mean, [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), split, strict=True)}


def drawn(context: Context, batch_size: int, count: int) -> Tensor:
    """Draw the numbers of `count` retain utterances, or of all if there are fewer."""
    rows = torch.cat([batch.rows.cpu() for batch in context.batches("retain", batch_size)])
    return torch.from_numpy(seeding.order(rows.numpy().astype(np.int64), context.seed, "msg")[:count])


def only(rows: Tensor, of: Callable[[Batch], Tensor], zero: Tensor) -> Callable[[Batch], Tensor]:
    """Restrict `of` to the utterances of a batch that are in rows; zero if there are none."""

    def part(batch: Batch) -> Tensor:
        mine = torch.isin(batch.rows.cpu(), rows).nonzero()[:, 0].to(batch.labels.device)
        if not len(mine):
            return torch.zeros_like(zero)
        inputs = tuple(tensor[mine] for tensor in batch.inputs)
        return of(
            Batch(
                inputs,
                batch.labels[mine],
                batch.rows[mine.to(batch.rows.device)],
                batch.forget[mine.to(batch.forget.device)],
            )
        )

    return part
