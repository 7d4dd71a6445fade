"""Compute the mean embedding of each class, and which remaining class an utterance is nearest to."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.methods.base.method import Context
from speechforget.methods.common.losses import barred


def class_means(context: Context, names: Collection[str], batch_size: int) -> Tensor:
    """Compute the original's mean embedding of each class over some sets, (classes, width); 0 for a class without any.

    names: out of `forget` and `retain`. The embeddings are those of utterances as they are, without augmentation.
    """

    def sums(batch: Batch) -> Tensor:
        with torch.no_grad():
            embedding = context.original(*batch.inputs).embedding.double()
        hot = functional.one_hot(batch.labels, context.classes).to(embedding)
        return torch.cat([hot.T @ embedding, hot.sum(dim=0)[:, None]], dim=1)

    first = sums(next(iter(context.batches(next(iter(names)), 1))))
    total = sum(
        (context.total(name, batch_size, sums, torch.zeros_like(first)) for name in names), torch.zeros_like(first)
    )
    return (total[:, :-1] / total[:, -1:].clamp(min=1)).to(next(context.original.parameters()).dtype)


def without_barred(logits: Tensor, labels: Tensor, forgotten: Collection[int]) -> Tensor:
    """Give the utterance's own class and the forgotten ones the lowest finite logit (with infinity, 0 x log 0 is nan).

    logits (batch, classes), labels (batch,).
    """
    return logits.masked_fill(barred(labels, logits.shape[1], forgotten), torch.finfo(logits.dtype).min)
