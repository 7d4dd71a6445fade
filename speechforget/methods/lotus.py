"""LoTUS: unlearn towards the original's own answers, blurred on forget by as much as forget is still known better than unseen speech.

Spartalis, Semertzidis, Gavves & Daras, "LoTUS: large-scale machine unlearning with a taste of uncertainty", CVPR 2025.

    min_theta  E over the mix of  - sum_k t_k log p_theta(k | x)
    t = softmax((z_o + g) / tau) on D_f,   t = one-hot(argmax(z_o + g)) on D_r',   g_k = -log(-log u_k),  u ~ U(0, 1)
    tau = exp(alpha * (A_f - A_v)),   stop after an epoch with  A_f - A_v <= -margin

| symbol | argument                                                                                                             |
|--------|----------------------------------------------------------------------------------------------------------------------|
| z_o    | logits of the original, frozen, in evaluation mode                                                                   |
| g      | Gumbel noise, drawn from (seed, epoch, utterance) for each class: on retain, t is a sample of what the original says |
| A_f    | accuracy on forget of the model at the start of the epoch: the original, then the student                             |
| A_v    | accuracy of the original on validation; 0 for requests of whole classes, which an oracle gets all wrong              |
| alpha  | `alpha`                                                                                                              |
| margin | `margin`                                                                                                             |
| D_r'   | `retain_share` of retain (see `switches.py`), shuffled together with forget                                          |

No label of retain is used. The noise makes the target of each utterance another in each epoch; its mean is blurred more, the larger tau is. Of a
class that is forgotten whole nothing is left to blur (tau = 1), so the next epoch teaches some of it again: its accuracy swings with the epochs.

Where public code differs: it rounds both accuracies to two decimals before it uses them, and here they are as they are. Its batch-norm is `train`; by
default it is `frozen` here, since the mix holds far more of forget than the training set does.
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
    """Mixed passes whose targets on forget get sharper as forget is forgotten."""

    stream = "mix"
    needs = frozenset({"forget", "retain", "validation"})
    known: Tensor

    def __init__(self, alpha: float, margin: float = 0.01, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.alpha, self.margin = alpha, margin
        # What is compared: accuracy on forget now, and the original's on validation. A buffer, so that a resumed run goes on with it.
        self.register_buffer("known", torch.zeros(2, dtype=torch.float64))

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The teacher, and how much better it knows forget than what it never heard. Raises UserError without validation utterances."""
        self.teacher, self.seed = frozen_copy(context.original), context.seed
        unseen = 0.0 if context.forgotten else accuracy(context, "validation", self.batch_size)
        if math.isnan(unseen):
            raise UserError(
                "LoTUS compares forget with validation utterances, and there are none: raise dataset.validation."
            )
        self.known = torch.tensor([accuracy(context, "forget", self.batch_size), unseen], dtype=torch.float64)

    @property
    def gap(self) -> float:
        """A_f - A_v."""
        return float(self.known[0]) - float(self.known[1])

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy with the drawn targets."""
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
        """Looks at forget again, and stops where it is known no better than unseen speech."""
        if index + 1 == self.epochs:
            return False
        self.known[0] = evaluate("forget")
        return self.gap <= -self.margin


def accuracy(context: Context, name: str, batch_size: int) -> float:
    """The original's accuracy on a set, in [0, 1]; not a number where it is empty."""

    def right(batch: Batch) -> Tensor:
        with torch.no_grad():
            hits = context.original(*batch.inputs).logits.argmax(dim=1) == batch.labels
        return torch.stack([hits.sum(), torch.tensor(len(hits), device=hits.device)]).cpu()

    hits, count = context.total(name, batch_size, right, torch.zeros(2, dtype=torch.int64)).tolist()
    return hits / count if count else math.nan


def gumbel(rows: Tensor, like: Tensor, seed: int, epoch: int) -> Tensor:
    """Standard Gumbel noise in the shape and kind of `like` (batch, classes); each row depends on (seed, epoch, utterance number) alone."""
    drawn = torch.from_numpy(seeding.uniform(rows.cpu().numpy(), like.shape[1], seed, "gumbel", epoch)).clamp(
        min=2.0**-54
    )
    return -(-drawn.log()).log().to(like)


def targets(logits: Tensor, noise: Tensor, forget: Tensor, temperature: float) -> Tensor:
    """Targets (batch, classes): where `forget` (batch,) is true, softmax((logits + noise) / temperature); elsewhere all on the largest."""
    noisy = logits + noise
    hard = nn.functional.one_hot(noisy.argmax(dim=1), logits.shape[1]).to(logits.dtype)
    return torch.where(forget[:, None], (noisy / temperature).softmax(dim=1), hard)
