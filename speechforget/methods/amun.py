"""Train on the original's own wrong answers to forget utterances that an adversarial attack has changed slightly.

AMUN: Ebrahimpour-Boroojeny, Sundaram & Chandrasekaran, "Not all wrong is bad: using adversarial examples for
unlearning", ICML 2025.

    x_a = x + s d,   d the shortest found with || d || <= r sqrt(n)  and  y_a = argmax_k z_k(x_a; theta_o) a wrong class
    min_theta  E over the mix of (x_a, y_a) for D_f and (x, y) for D_r

| symbol | meaning                                                                                                  |
|--------|----------------------------------------------------------------------------------------------------------|
| x      | features of a forget utterance without augmentation; padding stays unchanged                             |
| s      | standard deviation of each feature over forget                                                           |
| n      | number of the utterance's cells that hold sound                                                          |
| r      | one of `radii`, in ascending order: d is r standard deviations per cell (root mean square)               |
| d      | found by `steps` steps of projected gradient descent on the margin, each 2.5 / steps of the radius long; |
|        | the margin is the largest logit of the true and the forgotten classes minus the largest of the other     |
|        | classes                                                                                                  |
| D_r    | retain, if `retain` is true (the default); otherwise the passes are over the adversarial examples only   |

Differences from the paper and the public code:
- The paper doubles the radius until the prediction changes. Here bisection in `radii` finds each utterance's smallest
  radius. It always takes ceil(log2(len(radii) + 1)) attacks.
- For two classes, the margin has the gradient direction of the paper's cross-entropy. Unlike cross-entropy, it does not
  vanish where the original is certain.
- A class that the request removes is never a valid answer.
- If the largest radius does not suffice, the last x_a is used with its most likely wrong class. A warning says for how
  many utterances.
- Batch-norm is `frozen` by default, because the mix contains more of forget than the training set does.

The examples are computed once and kept. They take as much memory and checkpoint space as the features of forget: 16 kB
per second of log-mel with 40 bands.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass, Stream
from speechforget.methods.common.input_features import deviation, features_of, heard, length, logits_of
from speechforget.methods.common.losses import barred, cross_entropy
from speechforget.methods.common.per_utterance import find, fitted

logger = logging.getLogger(__name__)


class Amun(Epochs):
    """Train on mixed passes in which adversarial examples replace the forget utterances."""

    stream: Stream = "mix"

    def __init__(
        self,
        radii: Sequence[float] = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
        steps: int = 10,
        retain: bool = True,
        **epochs: Any,
    ) -> None:
        super().__init__(**epochs)
        if not radii or min(radii) <= 0 or list(radii) != sorted(set(radii)) or steps < 1:
            raise UserError(
                f"AMUN needs ascending radii above 0 and at least one step, not radii={list(radii)} and steps={steps}."
            )
        self.radii, self.steps, self.retain = tuple(radii), steps, retain
        self.stream = "mix" if retain else "forget"
        self.needs = frozenset({"forget", "retain"} if retain else {"forget"})

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Compute each forget utterance's adversarial example, with its label and its length in samples."""
        scale = deviation(context, "forget", self.batch_size)
        shapes = [
            features_of(context.original, batch).shape[1:] for batch in context.batches("forget", self.batch_size)
        ]
        zero = torch.zeros([max(sizes) for sizes in zip(*shapes, strict=True)], dtype=scale.dtype, device=scale.device)
        number = torch.zeros((), dtype=torch.int64, device=scale.device)

        def adversary(batch: Batch) -> list[Tensor]:
            bars = barred(batch.labels, context.classes, context.forgotten)
            return [*nearest(context.original, batch, scale, self.radii, self.steps, bars), *batch.inputs[1:2]]

        lengths = next(iter(context.batches("forget", self.batch_size))).inputs[1:2]
        zeros = [zero, number, number, *(number for _ in lengths)]
        self.features, self.labels, missed, *others = find(context, "forget", self.batch_size, adversary, zeros)
        self.lengths = others[0] if others else None
        if count := int(missed.values.sum()):
            logger.warning(
                "%d of %d forget utterances have no adversarial example within radius %g.",
                count,
                len(missed.rows),
                self.radii[-1],
            )

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with adversarial labels on adversarial examples, and with true labels on retain."""
        changed, features = self.replaced(batch, features_of(student, batch))
        return self.mean(cross_entropy(logits_of(student, changed, features), changed.labels), batch)

    def replaced(self, batch: Batch, features: Tensor) -> tuple[Batch, Tensor]:
        """Replace the forget utterances in a batch and its features (batch, ...) by their adversarial examples."""
        stored = self.features(batch.rows)
        shape = [max(sizes) for sizes in zip(features.shape[1:], stored.shape[1:], strict=True)]
        chosen = batch.forget.view(-1, *[1] * len(shape))
        features = torch.where(chosen, fitted(stored, shape).to(features.dtype), fitted(features, shape))
        inputs = list(batch.inputs)
        if self.lengths is not None:
            inputs[1] = torch.where(batch.forget, self.lengths(batch.rows).to(inputs[1].device), inputs[1])
        labels = torch.where(batch.forget, self.labels(batch.rows), batch.labels)
        return batch._replace(inputs=tuple(inputs), labels=labels), features


def nearest(
    model: nn.Module, batch: Batch, scale: Tensor, radii: Sequence[float], steps: int, bars: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute adversarial features (batch, ...), their classes (batch,), and 1 if no radius sufficed, else 0 (batch,).

    bars: classes that are not valid answers.
    """
    features = features_of(model, batch)
    mask = heard(model, batch, features)
    roots = mask.expand_as(features).flatten(1).sum(dim=1).sqrt()
    sizes = torch.tensor(radii, dtype=features.dtype, device=features.device)
    low = torch.zeros_like(batch.labels)
    # The index of the smallest radius known to suffice; len(radii) if there is none.
    high = torch.full_like(low, len(radii))
    best, classes = features, batch.labels
    for _ in range(math.ceil(math.log2(len(radii) + 1))):
        middle = ((low + high) // 2).clamp(max=len(radii) - 1)
        moved = attack(model, batch, features, scale * mask, sizes[middle] * roots, steps, bars)
        with torch.no_grad():
            logits = logits_of(model, batch, moved)
        fooled = margin(logits, bars) < 0
        better = (fooled & (middle < high)) | (~fooled & (high == len(radii)))
        best = torch.where(better.view(-1, *[1] * (features.dim() - 1)), moved, best)
        classes = torch.where(better, logits.masked_fill(bars, -torch.inf).argmax(dim=1), classes)
        low, high = torch.where(fooled, low, (middle + 1).maximum(low)), torch.where(fooled, middle.minimum(high), high)
    return best, classes, (high == len(radii)).long()


def attack(
    model: nn.Module, batch: Batch, features: Tensor, scale: Tensor, radius: Tensor, steps: int, bars: Tensor
) -> Tensor:
    """Move features (batch, ...) to reduce the margin, by at most `radius` (batch,).

    radius: a Euclidean norm in units of `scale`.
    """
    radius = radius.view(-1, *[1] * (features.dim() - 1))
    small = torch.finfo(features.dtype).tiny
    moved = torch.zeros_like(features)
    for _ in range(steps):
        point = (features + scale * moved).requires_grad_(True)
        with torch.enable_grad():
            total = margin(logits_of(model, batch, point), bars).sum()
        (gradient,) = torch.autograd.grad(total, point)
        gradient = gradient * scale
        moved = moved - 2.5 * radius / steps * gradient / length(gradient).clamp(min=small)
        moved = moved * (radius / length(moved).clamp(min=small)).clamp(max=1)
    return features + scale * moved


def margin(logits: Tensor, bars: Tensor) -> Tensor:
    """Compute the largest logit of the classes in `bars` (batch, classes) minus the largest of the others, (batch,)."""
    return logits.masked_fill(~bars, -torch.inf).amax(dim=1) - logits.masked_fill(bars, -torch.inf).amax(dim=1)
