"""How far a model's probabilities are from the oracle's, utterance by utterance. All are 0 for the oracle and have no sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.intervals import mean
from speechforget.evaluation.tables import Tables, Value, chunks

Rows = NDArray[np.float64]
Logits = NDArray[np.floating]

FLOOR = 1e-20
SMALLEST = float(np.finfo(np.float64).tiny)


class Distribution(NamedTuple):
    """Probabilities and their logarithms in nats, each (n, K) float64."""

    probability: Rows
    log: Rows


def log_softmax(logits: Logits) -> Rows:
    """Log-probabilities in nats, (n, K) float64, exact however large the logits; nan for rows that hold one or an infinity."""
    return _distribution(logits).log


def _distribution(logits: Logits) -> Distribution:
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    probability = np.exp(shifted)
    total = probability.sum(axis=1, keepdims=True)
    probability /= total
    shifted -= np.log(total)
    return Distribution(probability, shifted)


def kullback_leibler(first: Logits, second: Logits) -> Rows:
    """KL(first || second) = sum of p_first (log p_first - log p_second), (n,) in nats, from logits (n, K).

    `FLOOR` is added to every probability inside the logarithms, which bounds the divergence by 46 nats: one utterance that a ruined model is
    infinitely wrong about does not rule the mean.
    """
    return _over_chunks(first, second, _kullback_leibler)[0]


def jensen_shannon(first: Logits, second: Logits) -> Rows:
    """JS = KL(first || m) / 2 + KL(second || m) / 2 with m the mean of both, (n,) in nats, at most log 2, from logits (n, K)."""
    return _over_chunks(first, second, _jensen_shannon)[0]


def probability_distance(first: Logits, second: Logits) -> Rows:
    """The Euclidean distance of the two probability vectors, (n,) in [0, sqrt 2], from logits (n, K); the activation distance of Golatkar et al."""
    return _over_chunks(first, second, _probability_distance)[0]


def _over_chunks(first: Logits, second: Logits, *measures: Callable[[Distribution, Distribution], Rows]) -> Rows:
    """Each measure of every row, (measures, n), some rows at a time."""
    found = np.empty((len(measures), len(first)))
    for rows in chunks(*first.shape):
        p, q = _distribution(first[rows]), _distribution(second[rows])
        for measure, values in zip(measures, found, strict=True):
            values[rows] = measure(p, q)
    return found


def _kullback_leibler(p: Distribution, q: Distribution) -> Rows:
    difference = np.log(p.probability + FLOOR) - np.log(q.probability + FLOOR)
    return np.maximum((p.probability * difference).sum(axis=1), 0.0)


def _jensen_shannon(p: Distribution, q: Distribution) -> Rows:
    middle = (p.probability + q.probability) / 2
    middle = np.log(np.maximum(middle, SMALLEST, out=middle), out=middle)
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def _relative_entropy(p: Distribution, q: Rows) -> Rows:
    """Exact KL to log-probabilities; rounding may take it below 0, which it cannot be."""
    return np.maximum((p.probability * (p.log - q)).sum(axis=1), 0.0)


def _probability_distance(p: Distribution, q: Distribution) -> Rows:
    return np.linalg.norm(p.probability - q.probability, axis=1)


def divergence(tables: Tables, model: str) -> dict[str, Value]:
    """Means over each subset's utterances, with 95 % normal intervals.

    `kl_<subset>`: KL(oracle || model) in nats, at most 46. `js_<subset>`: Jensen-Shannon divergence in nats, at most log 2 = 0.69.
    `probability_distance_<subset>`: Euclidean distance of the probability vectors. nan where a logit is not finite.
    """
    measures = {"kl": _kullback_leibler, "js": _jensen_shannon, "probability_distance": _probability_distance}
    found = _over_chunks(tables.oracle.logits, tables.of(model).logits, *measures.values())
    return {
        f"{name}_{subset}": mean(values[mask])
        for name, values in zip(measures, found, strict=True)
        for subset, mask in tables.subsets().items()
    }
