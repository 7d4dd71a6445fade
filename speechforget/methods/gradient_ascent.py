"""Gradient ascent on forget (also called NegGrad): undo training by climbing its loss.

Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020; Thudi, Deza, Chandrasekaran & Papernot, "Unrolling SGD:
understanding factors influencing machine unlearning", EuroS&P 2022.

    max_theta  E_{D_f} l(x, y; theta),  started at theta_o

l: cross-entropy in nats, mean over the batch. The loss has no ceiling: `learning_rate` times `epochs` decides how far it goes, and `clip`
bounds the gradient's global norm, as Koudounas et al. (UnSLU-BENCH, Interspeech 2025) do.
Unlike public code, which leaves batch-norm in training mode, so that running statistics become those of the forget set, the default here is
`frozen`: the ascent climbs on the very function that is deployed. An optimiser with weight decay would shrink weights while climbing; the yaml
sets none.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Pass
from speechforget.methods.common.losses import cross_entropy


class GradientAscent(Epochs):
    """Epochs over forget with the sign of the loss turned round."""

    stream = "forget"
    needs = frozenset({"forget"})

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Minus cross-entropy with the true labels."""
        return -self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
