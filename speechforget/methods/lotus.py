"""Train on the original's answers, and smooth those on forget while it is known better than unseen speech.

LoTUS: Spartalis, Semertzidis, Gavves & Daras, "LoTUS: large-scale machine unlearning with a taste of uncertainty", CVPR
2025.

    min_theta  E over the mix of  - sum_k t_k log p_theta(k | x)
    t = softmax((z_o + g) / tau) on D_f,   t = one-hot(argmax(z_o + g)) on D_r'
    g_k = -log(-log u_k),  u ~ U(0, 1)
    tau = exp(alpha * (A_f - A_v)),   stop after an epoch with  A_f - A_v <= -margin

| symbol | meaning                                                                                                    |
|--------|------------------------------------------------------------------------------------------------------------|
| z_o    | logits of the original, frozen, in evaluation mode                                                         |
| g      | Gumbel noise for each class, drawn from (seed, epoch, utterance); on retain, t is thus a sample of the     |
|        | original's answer                                                                                          |
| A_f    | accuracy on forget of the model at the start of the epoch: first the original, then the student            |
| A_v    | the original's accuracy on validation; 0 in class requests, in which an oracle answers all of forget wrong |
| alpha  | `alpha`                                                                                                    |
| margin | `margin`                                                                                                   |
| D_r'   | `retain_share` of retain (see `base/switches.py`), shuffled together with forget                           |

The method uses no labels of retain. The noise changes each utterance's target in every epoch. A larger tau gives a
smoother mean target. Once a class is forgotten whole, nothing remains to smooth (tau = 1). The next epoch then teaches
part of it again, so its accuracy oscillates over the epochs.

Differences from the public code:
- It rounds both accuracies to two decimals before using them. Here they are not rounded.
- Its batch-norm is `train`. Here it is `frozen` by default, because the mix contains far more of forget than the
  training set does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from speechforget import seeding
from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Evaluate, Pass, frozen_copy


class LoTUS(Epochs):
    """Train on mixed passes in which forget's targets sharpen as forget is forgotten."""

    stream = "mix"
    needs = frozenset({"forget", "retain", "validation"})
    known: Tensor

    def __init__(self, alpha: float, margin: float = 0.01, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.alpha, self.margin = alpha, margin
        # A_f and A_v; a buffer, so that a resumed run continues with them.
        self.register_buffer("known", torch.zeros(2, dtype=torch.float64))

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teacher and measure how much better it knows forget than unseen speech.

        Raises UserError without validation utterances.
        """
        self.teacher, self.seed = frozen_copy(context.original), context.seed
        unseen = 0.0 if context.forgotten else accuracy(context, "validation", self.batch_size)
        if math.isnan(unseen):
            raise UserError(
                "LoTUS compares forget with validation utterances, and there are none: raise dataset.validation."
            )
        self.known = torch.tensor([accuracy(context, "forget", self.batch_size), unseen], dtype=torch.float64)

    @property
    def gap(self) -> float:
        """Return A_f - A_v."""
        return float(self.known[0]) - float(self.known[1])

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the drawn targets."""
        with torch.no_grad():
            logits = self.teacher(*batch.inputs).logits
            target = targets(
                logits,
                gumbel(batch.rows, logits, self.seed, current.epoch),
                batch.forget,
                math.exp(self.alpha * self.gap),
            )
        return self.mean(-(target * student(*batch.inputs).logits.log_softmax(dim=1)).sum(dim=1), batch)

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Measure accuracy on forget again; stop if it is at least `margin` below that on unseen speech."""
        if index + 1 == self.epochs:
            return False
        self.known[0] = evaluate("forget")
        return self.gap <= -self.margin


def accuracy(context: Context, name: str, batch_size: int) -> float:
    """Compute the original's accuracy on a set, in [0, 1]; nan for an empty set."""

    def right(batch: Batch) -> Tensor:
        with torch.no_grad():
            hits = context.original(*batch.inputs).logits.argmax(dim=1) == batch.labels
        return torch.stack([hits.sum(), torch.tensor(len(hits), device=hits.device)]).cpu()

    hits, count = context.total(name, batch_size, right, torch.zeros(2, dtype=torch.int64)).tolist()
    return hits / count if count else math.nan


def gumbel(rows: Tensor, like: Tensor, seed: int, epoch: int) -> Tensor:
    """Draw standard Gumbel noise with the shape, dtype and device of `like` (batch, classes).

    Each row depends on (seed, epoch, utterance number) only.
    """
    drawn = torch.from_numpy(seeding.uniform(rows.cpu().numpy(), like.shape[1], seed, "gumbel", epoch)).clamp(
        min=2.0**-54
    )
    return -(-drawn.log()).log().to(like)


def targets(logits: Tensor, noise: Tensor, forget: Tensor, temperature: float) -> Tensor:
    """Compute targets (batch, classes): softmax((logits + noise) / temperature) where `forget` (batch,) is true.

    Elsewhere the target is one-hot at the largest of logits + noise.
    """
    noisy = logits + noise
    hard = nn.functional.one_hot(noisy.argmax(dim=1), logits.shape[1]).to(logits.dtype)
    return torch.where(forget[:, None], (noisy / temperature).softmax(dim=1), hard)
