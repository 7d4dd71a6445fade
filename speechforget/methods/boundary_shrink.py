"""Train each forget utterance towards its nearest wrong class.

Chen, Gao, Liu, Peng & Wang, "Boundary unlearning: rapid forgetting of deep networks via shifting the decision
boundary", CVPR 2023.

    x' = x + b * s * sign(grad_x l(x, y; theta_o))        one step of the fast gradient sign method
    y' = argmax_k z_k(x'; theta_o)
    min_theta  E_{D_f} l(x, y'; theta)

| symbol | meaning                                                                                                    |
|--------|------------------------------------------------------------------------------------------------------------|
| x      | features of a forget utterance without augmentation; theta_o is the original                               |
| b      | `bound`, in units of s                                                                                     |
| s      | standard deviation of each feature over forget; padding stays unchanged                                    |
| y'     | with `wrong_only` (the default), one of the classes that are neither the true one nor forgotten; otherwise |
|        | any class                                                                                                  |
| l      | cross-entropy in nats, mean over the batch                                                                 |

Differences from the public code:
- The step may be too short to leave the true class. The public code then trains on the true label. The paper means the
  nearest wrong class. `wrong_only` takes that one: the best wrong class at x'. If the step reaches a class that stays,
  both agree.
- It clamps x' to [0, 1] and rounds it to multiples of 1/255, as for images. Here neither is done.
- It computes the labels again in each epoch. They depend on the original only, so here they are computed once, on
  utterances without augmentation. This takes one forward and backward pass and one forward pass per utterance.
- If the original is so certain that l is zero in its precision, its sign is lost. Here the sign is that of the gradient
  of log(e^l - 1), which is the same everywhere and does not saturate.
- Batch-norm is `frozen` by default, because the passes use only forget.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass
from speechforget.methods.common.input_features import deviation, features_of, heard, logits_of
from speechforget.methods.common.losses import barred, cross_entropy
from speechforget.methods.common.per_utterance import find


class BoundaryShrink(Epochs):
    """Train on forget with the labels of the nearest wrong classes."""

    stream = "forget"
    needs = frozenset({"forget"})

    def __init__(self, bound: float = 0.1, wrong_only: bool = True, **epochs: Any) -> None:
        super().__init__(**epochs)
        if not bound > 0:
            raise UserError(f"bound is the step in standard deviations and must be above 0, not {bound}.")
        self.bound, self.wrong_only = bound, wrong_only

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Find the label of each forget utterance."""
        step = self.bound * deviation(context, "forget", self.batch_size)

        def label(batch: Batch) -> list[Tensor]:
            with torch.no_grad():
                logits = logits_of(context.original, batch, beyond(context.original, batch, step))
            if self.wrong_only:
                logits = logits.masked_fill(barred(batch.labels, context.classes, context.forgotten), -torch.inf)
            return [logits.argmax(dim=1)]

        (self.labels,) = find(
            context, "forget", self.batch_size, label, [torch.zeros((), dtype=torch.int64, device=step.device)]
        )

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the labels found."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, self.labels(batch.rows)), batch)


def beyond(original: nn.Module, batch: Batch, step: Tensor) -> Tensor:
    """Move the features of a batch, (batch, ...), by `step` in the direction that raises the true class's loss."""
    features = features_of(original, batch).detach().requires_grad_(True)
    with torch.enable_grad():
        logits = logits_of(original, batch, features)
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, batch.labels[:, None], True)
        excess = logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits[own]  # log(e^l - 1)
        (gradient,) = torch.autograd.grad(excess.sum(), features)
    return features.detach() + step * gradient.sign() * heard(original, batch, features)
