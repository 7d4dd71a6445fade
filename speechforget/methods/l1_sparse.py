"""Fine-tune on retain with an l1 penalty on all weights, so that weights that only forget needs shrink.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma & Liu, "Model sparsity can simplify machine unlearning", NeurIPS 2023.

    min_theta  E_{D_r} l(x, y; theta) + gamma_t * ||theta||_1,  started at theta_o
    gamma_t = gamma * max(0, 1 - t / (E - E_0))

| symbol | meaning                                                                                                    |
|--------|------------------------------------------------------------------------------------------------------------|
| l      | cross-entropy in nats, mean over the batch                                                                 |
| gamma  | `gamma`; the penalty's weight gamma_t decays from epoch to epoch, t = 0, 1, ..., and is constant within an |
|        | epoch                                                                                                      |
| E, E_0 | `epochs`; `epochs_without`: the number of last epochs without a penalty                                    |
| theta  | every trainable weight, biases and those of normalisations included; running statistics are not weights    |

The penalty's subgradient is gamma_t * sign(theta) with sign(0) = 0. It is added to the step's gradient after that is
summed over processes, so it counts once for any number of them. The logged loss is cross-entropy alone. Weights come
close to zero but not to exactly zero: nothing is pruned.

Difference: the public code uses one option for gamma and other methods' strengths. Its default of 0.2 destroys any
model; the paper's gamma is 5e-4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Pass
from speechforget.methods.common.losses import cross_entropy


class L1Sparse(Epochs):
    """Train on retain with a penalty that decreases to zero."""

    needs = frozenset({"retain"})

    def __init__(self, gamma: float, epochs_without: int = 0, **epochs: Any) -> None:
        super().__init__(**epochs)
        if gamma < 0 or not 0 <= epochs_without <= self.epochs:
            raise UserError(
                f"gamma must be at least 0, and epochs_without from 0 to epochs, not {gamma} and {epochs_without}."
            )
        self.gamma, self.penalised = gamma, self.epochs - epochs_without
        self.strength = 0.0  # gamma_t of the current step

    def penalty(self, epoch: int) -> float:
        """Compute gamma_t of an epoch, counted from 0."""
        return self.gamma * (1 - epoch / self.penalised) if epoch < self.penalised else 0.0

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the true labels; the penalty is added after the backward pass."""
        self.strength = self.penalty(current.epoch)
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)

    def after_backward(self, student: nn.Module) -> None:
        """Add the penalty's subgradient."""
        for weight in student.parameters():
            if weight.requires_grad and self.strength:
                pull = weight.detach().sign().mul_(self.strength)
                weight.grad = pull if weight.grad is None else weight.grad + pull
