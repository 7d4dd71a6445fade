"""Gradients of the loss of taught labels to all weights, of a classifier that stands still: their means and slopes."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.attacks.base import Rows, Subject, check_finite

Numbers = NDArray[np.float64]
LEAST_NORM = 1e-3  # of weights that may all be 0
STEP = 1e-4  # of a numerical slope, as a share of the norm of the weights: errors of about 1e-8, in double precision


def mean_gradient(subject: Subject, rows: Rows) -> Tensor:
    """Compute the gradient of the mean loss over rows, one flat float64 vector of all weights that are trained.

    Raises FloatingPointError if outputs are not finite.
    """
    weights = _weights(subject.classifier)
    total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    for batch in subject.batches(rows):
        logits = subject.classifier(*batch.inputs).logits
        check_finite(logits.detach().float().cpu().numpy())
        loss = nn.functional.cross_entropy(logits, _labels(subject, batch.rows), reduction="sum")
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        total = [one if more is None else one + more for one, more in zip(total, found, strict=True)]
    return torch.cat([one.flatten() for one in total]) / len(rows)


def slopes(subject: Subject, rows: Rows, direction: Tensor) -> Numbers:
    """Compute the slope of each row's loss along a direction of the weights: its gradient times the unit vector.

    By the central difference of two passes in double precision, so that it needs no gradient of single rows.
    """
    classifier = copy.deepcopy(subject.classifier).double()
    weights = _weights(classifier)
    norm = max(float(torch.cat([weight.detach().flatten() for weight in weights]).norm()), LEAST_NORM)
    steps = (direction.double() / direction.norm() * STEP * norm).split([weight.numel() for weight in weights])
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, step in zip(weights, steps, strict=True):
                weight.add_(step.view_as(weight), alpha=sign)
            ends.append(_losses(subject, classifier, rows))
    found: Numbers = (ends[0] - ends[1]) / (2 * STEP * norm)
    return found


def _losses(subject: Subject, classifier: nn.Module, rows: Rows) -> Numbers:
    found = []
    for batch in subject.batches(rows):
        waveform, *rest = batch.inputs
        logits = classifier(waveform.double(), *rest).logits
        labels = _labels(subject, batch.rows)
        found.append(nn.functional.cross_entropy(logits, labels, reduction="none").cpu().numpy())
    return np.concatenate(found)


def _weights(classifier: nn.Module) -> list[Tensor]:
    return [weight for weight in classifier.parameters() if weight.requires_grad]


def _labels(subject: Subject, rows: Tensor) -> Tensor:
    labels = subject.labels if subject.taught is None else subject.taught
    return torch.from_numpy(labels[rows.cpu().numpy()]).to(subject.device)
