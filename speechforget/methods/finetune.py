"""Continue training on retain only, and rely on catastrophic forgetting of forget.

Baseline of Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net", CVPR 2020. Its numbers follow Jia et
al., "Model sparsity can simplify machine unlearning", NeurIPS 2023.

    min_theta  E_{D_r} l(x, y; theta),  started at theta_o

| symbol  | meaning                                    |
|---------|--------------------------------------------|
| l       | cross-entropy in nats, mean over the batch |
| theta_o | weights of the original                    |

`epochs` is the number of epochs and `learning_rate` the step. As in the public code, nothing is added. Batch-norm is in
training mode, because the passes use only retain.
"""

from __future__ import annotations

from speechforget.methods.base.epochs import Epochs


class Finetune(Epochs):
    """Train on retain for some epochs."""

    needs = frozenset({"retain"})
