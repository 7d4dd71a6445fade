"""Collapse the features of forget into the clusters of other classes, then align the classifier on retain.

COLA, collapse and align: Jeon, Jeung, Kim, Lee & No, "An information theoretic evaluation metric for strong
unlearning", AAAI 2026 (arXiv 2405.17878).

    collapse: min over the encoder of  E over the mix of  -log softmax_c( cos(z_theta(x), m_c) / tau )
    align:    min_theta  E_{D_r} l(x, y; theta)

| symbol | meaning                                                                                                  |
|--------|----------------------------------------------------------------------------------------------------------|
| z      | the embedding                                                                                            |
| m_c    | the original's mean embedding of class c over retain, for classes that remain                            |
| c      | on retain the true class; on forget the remaining class that the original finds likeliest besides its own |
| tau    | `temperature`                                                                                            |
| l      | cross-entropy in nats, mean over the batch                                                               |

The first phase makes `collapse_epochs` passes and does not touch the head, which its loss does not read; the second
makes `epochs`. Features are what the method is for: judge it by probes (`evaluation=full`), not by outputs alone.

Differences from the paper: its text was not at hand, only notes on it. Its collapse is contrastive over the pairs in a
batch. Here features are drawn to means instead, so that a loss is a sum over utterances and does not depend on batches
or on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.method import BatchNorm, Context, Method, Pass, frozen_copy
from speechforget.methods.common.class_means import class_means, without_barred
from speechforget.methods.common.losses import cross_entropy


class Cola(Method):
    """Make collapse passes over the mix, then align passes over retain."""

    def __init__(
        self,
        collapse_learning_rate: float,
        collapse_epochs: int,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        temperature: float,
        optimizer: Mapping[str, Any],
        collapse_batch_norm: BatchNorm = "frozen",
        batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}.")
        self.collapse = (batch_size, collapse_learning_rate, collapse_batch_norm)
        self.align = (batch_size, learning_rate, batch_norm)
        self.collapse_epochs, self.epochs, self.temperature = collapse_epochs, epochs, temperature

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teacher, and measure the mean embedding of each class over retain.

        Raises NotApplicable if the features are frozen.
        """
        if self.collapse_epochs and self.trainable == "head":
            raise NotApplicable("The method cola collapses features, which method.trainable=head freezes: use all.")
        self.teacher, self.forgotten = frozen_copy(context.original), context.forgotten
        self.register_buffer("means", class_means(context, ("retain",), self.align[0]))

    def passes(self) -> Sequence[Pass]:
        """Collapse, then align."""
        first = [Pass("mix", *self.collapse, epoch=epoch) for epoch in range(self.collapse_epochs)]
        second = [Pass("retain", *self.align, epoch=epoch) for epoch in range(self.epochs)]
        if first and second:
            second[0] = Pass("retain", *self.align, fresh_optimizer=True)
        return [*first, *second]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the loss of the phase."""
        output = student(*batch.inputs)
        if current.stream == "retain":
            return self.mean(cross_entropy(output.logits, batch.labels), batch)
        closeness = self.closeness(output.embedding)
        return self.mean(cross_entropy(closeness, self.clusters(batch)), batch)

    def closeness(self, embedding: Tensor) -> Tensor:
        """Compute the scaled cosines of embeddings (batch, width) with the means; classes that go are out of reach."""
        means = self.get_buffer("means").to(embedding)
        cosines = functional.normalize(embedding, dim=1) @ functional.normalize(means, dim=1).T
        gone = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        gone[list(self.forgotten)] = True
        return (cosines / self.temperature).masked_fill(gone, torch.finfo(embedding.dtype).min)

    @torch.no_grad()
    def clusters(self, batch: Batch) -> Tensor:
        """Return the class whose cluster each utterance goes to, (batch,)."""
        clusters, some = batch.labels.clone(), batch.forget
        if bool(some.any()):
            original = self.teacher(*(tensor[some] for tensor in batch.inputs)).logits
            clusters[some] = without_barred(original, batch.labels[some], self.forgotten).argmax(dim=1)
        return clusters
