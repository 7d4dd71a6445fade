"""Reverse every convolution kernel in time, then fine-tune on retain.

"Convolution transpose" of the fifth place (toshi_k and marvelworld) of the NeurIPS 2023 machine unlearning challenge,
which swaps height and width of all kernels. Compared in Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari & Haddadi, "Deep
unlearn: benchmarking machine unlearning", 2024.

    w <- R(w) for every convolution;   min_theta  E_{D_r} l(x, y; theta)

    R of a kernel with one axis:           w'[o, i, t] = w[o, i, T - 1 - t]        time reversed
    R of a square kernel with two axes:    w'[o, i, a, b] = w[o, i, b, a]          axes swapped, as in the challenge
    R of any other kernel with two axes:   w'[o, i, a, t] = w[o, i, a, T - 1 - t]  time, the last axis, reversed

| symbol | meaning                                                                  |
|--------|--------------------------------------------------------------------------|
| w      | kernel of a trainable convolution, with o outputs, i inputs and T frames |
| l      | cross-entropy in nats, mean over the batch                               |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`                |

Difference: a swap is not defined for kernels with one axis, which networks on raw audio or on feature frames have.
Reversal is the closest equivalent: the same numbers in another order, with the same norm, and R(R(w)) = w. Kernels of
length 1, linear layers, biases, normalisations and frozen convolutions stay unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.errors import NotApplicable
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context
from speechforget.methods.common.layers import kernels


class KernelReversal(Epochs):
    """Reverse the kernels, then train on retain for some epochs."""

    needs = frozenset({"retain"})

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Reverse the kernels; raise NotApplicable if none is longer than 1."""
        long = [weight for weight in kernels(student).values() if weight.dim() > 2 and weight.shape[-1] > 1]
        if not long:
            raise NotApplicable(
                "Kernel reversal needs trainable convolutions longer than one frame, and this model has none."
            )
        for weight in long:
            weight.copy_(turned(weight))


def turned(kernel: Tensor) -> Tensor:
    """Compute R of kernels (outputs, inputs, time) or (outputs, inputs, frequency, time).

    Time is reversed; square kernels have both axes swapped instead.
    """
    if kernel.dim() == 4 and kernel.shape[2] == kernel.shape[3]:
        return kernel.transpose(2, 3).clone()
    return kernel.flip(-1)
