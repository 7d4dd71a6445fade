"""Teach forget the answers that a model without its class would give: the original's, tilted by class similarity.

TRW or TREW, tilted reweighting: Ebrahimpour-Boroojeny, Wang & Sundaram, "On the necessity of output distribution
reweighting for effective class unlearning", ICML 2026 (arXiv 2506.20893).

    min_theta  E over the mix of  KL(q(x) || p_theta(x)) on D_f,   l(x, y; theta) on D_r
    q_c(x) ~ p_o,c(x) exp(beta s_{y,c})  for classes c that remain,  0 for those that go

| symbol    | meaning                                                                                               |
|-----------|-------------------------------------------------------------------------------------------------------|
| p_o       | the original's softmax, in evaluation mode                                                            |
| s_{y,c}   | cosine of the mean embeddings of classes y and c, after the mean over all classes is taken off        |
| beta      | `beta`; 0 keeps the proportions of the original, as `delete` does                                     |
| l         | cross-entropy in nats; both losses are one mean over the batch                                        |

A model that never heard a word answers its neighbours. The original has pushed the neighbours of its own classes away,
so its masked answers are too flat, which an attack on neighbours reads. The tilt gives them back.

Differences from the paper: its text was not at hand, only its abstract and summaries of the tilt. The similarity here
is that of mean embeddings of the original, which every classifier has; a cosine before the overall mean is taken off
would be near 1 for all classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass, frozen_copy
from speechforget.methods.common.class_means import class_means, without_barred
from speechforget.methods.common.losses import cross_entropy, divergence


class Trew(Epochs):
    """Train on mixed passes: tilted answers on forget, true labels on retain."""

    stream = "mix"

    def __init__(self, beta: float = 1.0, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.beta = beta

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teacher and measure the similarity of all classes."""
        self.teacher, self.forgotten = frozen_copy(context.original), context.forgotten
        self.register_buffer("similar", similarity(class_means(context, ("forget", "retain"), self.batch_size)))

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the divergence from the tilted answers on forget, cross-entropy on retain."""
        logits, some = student(*batch.inputs).logits, batch.forget
        losses = cross_entropy(logits, batch.labels)
        if bool(some.any()):
            labels = batch.labels[some]
            with torch.no_grad():
                original = self.teacher(*(tensor[some] for tensor in batch.inputs)).logits
                tilt = self.beta * self.get_buffer("similar").to(original)[labels]
            taught = divergence(without_barred(original + tilt, labels, self.forgotten), logits[some])
            losses = losses.masked_scatter(some, taught)
        return self.mean(losses, batch)


def similarity(means: Tensor) -> Tensor:
    """Compute the cosines of class means (classes, width) after the mean over all classes is taken off."""
    directions = functional.normalize(means - means.mean(dim=0), dim=1)
    return directions @ directions.T
