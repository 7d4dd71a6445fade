"""What attacks read of one utterance's outputs: pure functions of logits (n, K) and labels (n,), in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.divergence import SMALLEST, Distribution, Logits, Rows, distribution
from speechforget.evaluation.tables import Scores, chunks

Labels = NDArray[np.int64]
Feature = Callable[[Distribution, Labels], Rows]


def correctness(p: Distribution, label: Labels) -> Rows:
    """Return 1 where the label has the largest probability, else 0."""
    return (p.probability.argmax(axis=1) == label).astype(np.float64)


def true_probability(p: Distribution, label: Labels) -> Rows:
    """Return the probability of the label."""
    return p.probability[np.arange(len(label)), label]


def confidence(p: Distribution, label: Labels) -> Rows:
    """Return the largest probability, whatever the label is."""
    return p.probability.max(axis=1)


def entropy(p: Distribution, label: Labels) -> Rows:
    """Return -sum of p log p in nats."""
    return -(p.probability * p.log).sum(axis=1)


def modified_entropy(p: Distribution, label: Labels) -> Rows:
    """Return -(1 - p_y) log p_y - sum over other classes of p_c log(1 - p_c), in nats.

    Source: Song & Mittal, USENIX Security 2021. 1 - p of the largest p is the sum of the others, because the difference
    would lose its digits.
    """
    rows = np.arange(len(label))
    others = 1 - p.probability
    top = p.probability.argmax(axis=1)
    rest = p.probability.copy()
    rest[rows, top] = 0
    others[rows, top] = rest.sum(axis=1)
    terms = p.probability * np.log(np.maximum(others, SMALLEST))
    terms[rows, label] = others[rows, label] * p.log[rows, label]
    return -terms.sum(axis=1)


def read(scores: Scores, rows: NDArray[np.int64], *features: Feature) -> list[Rows]:
    """Compute features of some rows, each (len(rows),), and read the logits in chunks."""
    found = [np.empty(len(rows)) for _ in features]
    for part in chunks(len(rows), scores.logits.shape[1]):
        p, label = distribution(scores.logits[rows[part]]), scores.label[rows[part]]
        for values, feature in zip(found, features, strict=True):
            values[part] = feature(p, label)
    return found


def probabilities(logits: Logits) -> Rows:
    """Return the vectors of probabilities, (n, K)."""
    return distribution(logits).probability
