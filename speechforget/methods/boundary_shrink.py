"""Boundary shrink: give each forget utterance to the wrong class that is nearest to it.

Chen, Gao, Liu, Peng & Wang, "Boundary unlearning: rapid forgetting of deep networks via shifting the decision boundary", CVPR 2023.

    x'      = x + b * s * sign(grad_x l(x, y; theta_o))        one step of the fast gradient sign method, on the original's features
    y'      = argmax_k z_k(x'; theta_o)
    min_theta  E_{D_f} l(x, y'; theta)

| symbol | argument                                                                                                         |
|--------|------------------------------------------------------------------------------------------------------------------|
| b      | `bound`, in units of s                                                                                             |
| s      | the standard deviation of each feature over forget; what is padding stays as it is                                 |
| y'     | with `wrong_only` (the default) out of the classes that are neither the utterance's own nor forgotten, else any     |
| l      | cross-entropy in nats, mean over the batch                                                                         |

The step may be too short to leave the true class. The public code then trains on the true label; the paper means the nearest wrong class, which is
what `wrong_only` takes: the next best at x'. Where the step does leave it for a class that stays, both agree. The public code clamps x' to [0, 1]
and rounds it to steps of 1/255, as if features were pictures; here neither is done. It also looks for the labels anew in each epoch. As they depend
on the original alone, here they are found once, for the utterances without augmentation: one forward and backward and one forward pass each.
Where the original is so sure that l is zero in its precision, the sign is still right: it is taken of log(e^l - 1), which has the same sign
everywhere and does not saturate. Batch-norm is `frozen` by default, as nothing but forget is heard.
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
    """Passes over forget with the labels of the nearest wrong classes."""

    stream = "forget"
    needs = frozenset({"forget"})

    def __init__(self, bound: float = 0.1, wrong_only: bool = True, **epochs: Any) -> None:
        super().__init__(**epochs)
        if not bound > 0:
            raise UserError(f"bound is the size of the step in standard deviations and must be above 0, not {bound}.")
        self.bound, self.wrong_only = bound, wrong_only

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The label of each forget utterance."""
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
        """Cross-entropy with the labels found."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, self.labels(batch.rows)), batch)


def beyond(original: nn.Module, batch: Batch, step: Tensor) -> Tensor:
    """The features of a batch, (batch, ...), each moved by `step` in the direction in which the loss of the true class rises."""
    features = features_of(original, batch).detach().requires_grad_(True)
    with torch.enable_grad():
        logits = logits_of(original, batch, features)
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, batch.labels[:, None], True)
        excess = logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits[own]  # log(e^l - 1)
        (gradient,) = torch.autograd.grad(excess.sum(), features)
    return features.detach() + step * gradient.sign() * heard(original, batch, features)
