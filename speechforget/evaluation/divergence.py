"""How far a model's probabilities are from the oracle's, utterance by utterance. All are 0 for the oracle and have no sign."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.intervals import mean
from speechforget.evaluation.tables import Tables, Value

Rows = NDArray[np.float64]

FLOOR = 1e-20


def log_softmax(logits: Rows) -> Rows:
    """Log-probabilities in nats, (n, K) float64, exact however large the logits; nan for rows that hold one or an infinity."""
    logits = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def kullback_leibler(first: Rows, second: Rows) -> Rows:
    """KL(first || second) = sum of p_first (log p_first - log p_second), (n,) in nats, from logits (n, K).

    `FLOOR` is added to every probability inside the logarithms, which bounds the divergence by 46 nats: one utterance that a ruined model is
    infinitely wrong about does not rule the mean.
    """
    p, q = np.exp(log_softmax(first)), np.exp(log_softmax(second))
    return np.maximum((p * (np.log(p + FLOOR) - np.log(q + FLOOR))).sum(axis=1), 0.0)


def jensen_shannon(first: Rows, second: Rows) -> Rows:
    """JS = KL(first || m) / 2 + KL(second || m) / 2 with m the mean of both, (n,) in nats, at most log 2, from logits (n, K)."""
    p, q = log_softmax(first), log_softmax(second)
    with np.errstate(invalid="ignore"):
        middle = np.logaddexp(p, q) - np.log(2)
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def probability_distance(first: Rows, second: Rows) -> Rows:
    """The Euclidean distance of the two probability vectors, (n,) in [0, sqrt 2], from logits (n, K); the activation distance of Golatkar et al."""
    return np.linalg.norm(np.exp(log_softmax(first)) - np.exp(log_softmax(second)), axis=1)


def _relative_entropy(p: Rows, q: Rows) -> Rows:
    """Exact KL of log-probabilities; rounding may take it below 0, which it cannot be."""
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)


def divergence(tables: Tables, model: str) -> dict[str, Value]:
    """Means over each subset's utterances, with 95 % normal intervals.

    `kl_<subset>`: KL(oracle || model) in nats, at most 46. `js_<subset>`: Jensen-Shannon divergence in nats, at most log 2 = 0.69.
    `probability_distance_<subset>`: Euclidean distance of the probability vectors. nan where a logit is not finite.
    """
    oracle, logits = tables.oracle.logits, tables.of(model).logits
    rows = {
        "kl": kullback_leibler(oracle, logits),
        "js": jensen_shannon(oracle, logits),
        "probability_distance": probability_distance(oracle, logits),
    }
    return {f"{name}_{subset}": mean(values[mask]) for name, values in rows.items() for subset, mask in tables.subsets().items()}
