"""Raise the loss on forget by gradient ascent (also called NegGrad).

Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020; Thudi, Deza, Chandrasekaran & Papernot,
"Unrolling SGD: understanding factors influencing machine unlearning", EuroS&P 2022.

    max_theta  E_{D_f} l(x, y; theta),  started at theta_o

| symbol  | meaning                                    |
|---------|--------------------------------------------|
| l       | cross-entropy in nats, mean over the batch |
| theta_o | weights of the original                    |

The loss has no upper limit: `learning_rate` times `epochs` decides how far the weights move. `clip` bounds the
gradient's global norm, as in Koudounas et al. (UnSLU-BENCH, Interspeech 2025).

Differences: public code leaves batch-norm in training mode, so its running statistics become those of forget. Here it
is `frozen` by default, so the ascent changes the same function that is deployed. An optimiser with weight decay would
also shrink the weights, so the yaml sets none.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Pass
from speechforget.methods.common.losses import cross_entropy


class GradientAscent(Epochs):
    """Train on forget with the opposite sign of the loss."""

    stream = "forget"
    needs = frozenset({"forget"})

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute minus the cross-entropy with the true labels."""
        return -self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
