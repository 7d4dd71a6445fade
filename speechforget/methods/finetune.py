"""Fine-tuning: go on training on retain, and count on catastrophic forgetting.

Baseline of Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020; numbers as in Jia et al., "Model sparsity can simplify
machine unlearning", NeurIPS 2023.

    min_theta  E_{D_r} l(x, y; theta),  started at theta_o

l: cross-entropy in nats, mean over the batch. The number of epochs is `epochs`, the step `learning_rate`.
As in the public code there is nothing else; batch-norm is in training mode, since all it sees is retain.
"""

from __future__ import annotations

from speechforget.methods.base.epochs import Epochs


class Finetune(Epochs):
    """Plain epochs over retain."""

    needs = frozenset({"retain"})
