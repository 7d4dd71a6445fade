"""Attack scores of an utterance, from logits: the larger, the more the utterance looks like training data.

Confidence and margin are log-odds, so they do not saturate where probabilities round to 1.
Modified entropy: Song & Mittal (USENIX Security 2021), the definition with the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax, xlogy

from speechforget.evaluation.audit.tables import Floats

SCORES = ("margin", "confidence", "entropy", "modified_entropy")


def margin(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Compute the margin z_y - log sum over other classes of exp z, in nats.

    logits: (..., n, C), C >= 2. labels: (n,). Returns (..., n), float64.
    Raises ValueError for logits that are not finite or fewer than 2 classes.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim < 2 or scores.shape[-1] < 2:
        raise ValueError(f"A margin needs logits of 2 or more classes, not the shape {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("A margin needs finite logits.")
    rows = np.arange(len(labels))
    others = scores.copy()
    others[..., rows, labels] = -np.inf
    found: Floats = scores[..., rows, labels] - logsumexp(others, axis=-1)
    return found


def attack_scores(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, Floats]:
    """Compute the attack scores of `SCORES`. logits: (..., n, C). labels: (n,). Returns (..., n) each, float64.

    margin: the log-odds of the label. confidence: the log-odds of the class with the largest logit, which needs no
    label. entropy: minus the entropy, in nats. modified_entropy: minus the modified entropy, in nats.
    """
    scores = np.asarray(logits, dtype=np.float64)
    rows, top = np.arange(len(labels)), scores.argmax(axis=-1)[..., None]
    others = scores.copy()
    np.put_along_axis(others, top, -np.inf, axis=-1)
    best = np.take_along_axis(scores, top, axis=-1)
    rest = logsumexp(others, axis=-1, keepdims=True)
    probability = softmax(scores, axis=-1)
    log = scores - logsumexp(scores, axis=-1, keepdims=True)
    # 1 - p of the top class is exact as the sum of the others.
    without = np.log1p(-np.where(probability < 0.9, probability, 0.0))
    np.put_along_axis(without, top, rest - np.logaddexp(best, rest), axis=-1)
    known = probability[..., rows, labels]
    terms = probability * without
    own = -np.expm1(log[..., rows, labels]) * log[..., rows, labels]
    return {
        "margin": margin(scores, labels),
        "confidence": (best - rest)[..., 0],
        "entropy": xlogy(probability, probability).sum(axis=-1),
        "modified_entropy": own + terms.sum(axis=-1) - known * without[..., rows, labels],
    }
