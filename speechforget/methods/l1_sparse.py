"""l1-sparse: fine-tuning on retain with a penalty on the size of all weights, so that those that only forget needed fade.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma & Liu, "Model sparsity can simplify machine unlearning", NeurIPS 2023.

    min_theta  E_{D_r} l(x, y; theta) + gamma_t * ||theta||_1,  started at theta_o,   gamma_t = gamma * max(0, 1 - t / (E - E_0))

| symbol | argument                                                                                                     |
|--------|--------------------------------------------------------------------------------------------------------------|
| l      | cross-entropy in nats, mean over the batch                                                                   |
| gamma  | `gamma`; its weight decays from epoch to epoch, t = 0, 1, ..., and is constant within one                    |
| E, E_0 | `epochs`; `epochs_without`: so many of them, the last ones, have no penalty                                  |
| theta  | every weight that can move, biases and those of normalisations included; running statistics are no weights   |

The penalty's subgradient, gamma_t * sign(theta) with sign(0) = 0, is added to the gradient of the whole step, after it was summed over processes,
so it counts once however many there are; the loss that is logged is cross-entropy alone. Weights come near zero and do not stay at it: nothing is
pruned. The public code gives gamma and other methods' strengths one option, whose default of 0.2 destroys any model; the paper's is 5e-4.
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
    """Epochs over retain with a penalty that fades out."""

    needs = frozenset({"retain"})

    def __init__(self, gamma: float, epochs_without: int = 0, **epochs: Any) -> None:
        super().__init__(**epochs)
        if gamma < 0 or not 0 <= epochs_without <= self.epochs:
            raise UserError(
                f"gamma must be at least 0, and epochs_without from 0 to epochs, not {gamma} and {epochs_without}."
            )
        self.gamma, self.penalised = gamma, self.epochs - epochs_without
        self.strength = 0.0  # of the penalty in the step under way

    def penalty(self, epoch: int) -> float:
        """gamma_t of an epoch, from 0."""
        return self.gamma * (1 - epoch / self.penalised) if epoch < self.penalised else 0.0

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy with the true labels; the penalty comes in after the backward pass."""
        self.strength = self.penalty(current.epoch)
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)

    def after_backward(self, student: nn.Module) -> None:
        """Adds the penalty's subgradient."""
        for weight in student.parameters():
            if weight.requires_grad and self.strength:
                pull = weight.detach().sign().mul_(self.strength)
                weight.grad = pull if weight.grad is None else weight.grad + pull
