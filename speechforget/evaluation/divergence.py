"""Distances between the probabilities of a model and the oracle, per utterance: >= 0, and 0 for the oracle itself."""

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
    """Hold probabilities and their logarithms in nats, each (n, K) float64."""

    probability: Rows
    log: Rows


def log_softmax(logits: Logits) -> Rows:
    """Return log-probabilities in nats, (n, K) float64, exact for logits of any size.

    A row with a nan or an infinite logit becomes nan.
    """
    return distribution(logits).log


def distribution(logits: Logits) -> Distribution:
    """Compute the probabilities of logits (n, K) and their logarithms, exact for logits of any size."""
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    probability = np.exp(shifted)
    total = probability.sum(axis=1, keepdims=True)
    probability /= total
    shifted -= np.log(total)
    return Distribution(probability, shifted)


def kullback_leibler(first: Logits, second: Logits) -> Rows:
    """Compute KL(first || second) = sum of p_first (log p_first - log p_second), (n,) in nats, from logits (n, K).

    `FLOOR` is added to every probability inside the logarithms, which bounds the divergence by 46 nats. So one
    utterance with an infinite divergence does not dominate the mean.
    """
    return _over_chunks(first, second, _kullback_leibler)[0]


def jensen_shannon(first: Logits, second: Logits) -> Rows:
    """Compute JS = KL(first || m) / 2 + KL(second || m) / 2 with m the mean of both, from logits (n, K).

    Returns (n,) in nats, at most log 2.
    """
    return _over_chunks(first, second, _jensen_shannon)[0]


def probability_distance(first: Logits, second: Logits) -> Rows:
    """Compute the Euclidean distance of the two probability vectors, (n,) in [0, sqrt 2], from logits (n, K).

    This is the activation distance of Golatkar et al.
    """
    return _over_chunks(first, second, _probability_distance)[0]


def _over_chunks(first: Logits, second: Logits, *measures: Callable[[Distribution, Distribution], Rows]) -> Rows:
    """Apply each measure to every row, in chunks of rows; returns (measures, n)."""
    found = np.empty((len(measures), len(first)))
    for rows in chunks(*first.shape):
        p, q = distribution(first[rows]), distribution(second[rows])
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
    """Compute the exact KL divergence to log-probabilities, (n,); clip rounding errors below 0."""
    return np.maximum((p.probability * (p.log - q)).sum(axis=1), 0.0)


def _probability_distance(p: Distribution, q: Distribution) -> Rows:
    return np.linalg.norm(p.probability - q.probability, axis=1)


def distances(tables: Tables, model: str) -> dict[str, Rows]:
    """Compute the three distances from the oracle to a model for every utterance, (n,) each."""
    measures = {"kl": _kullback_leibler, "js": _jensen_shannon, "probability_distance": _probability_distance}
    found = _over_chunks(tables.oracle.logits, tables.of(model).logits, *measures.values())
    return dict(zip(measures, found, strict=True))


def divergence(tables: Tables, model: str) -> dict[str, Value]:
    """Average three distances to the oracle over the utterances of each subset.

    Explanation:
        values: kl_<subset>, js_<subset>, probability_distance_<subset>
        meaning: How far the model's probabilities are from the oracle's on the same utterances. KL weighs what the
            oracle finds likely and is large where the model is sure of something else. JS is symmetric and bounded. The
            probability distance is the ordinary distance of the two vectors.
        formula: KL = mean of sum_c p_oracle log(p_oracle / p_model), at most 46 (1e-20 is added inside the logarithms);
            JS = mean of KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2; distance = mean of ||p - q||_2.
        unit: nats for KL and JS (JS at most log 2 = 0.69); [0, sqrt 2] for the distance; 95 % normal intervals.
        aim: the value of another oracle in the model's place (null_low to null_high). 0 is the oracle itself, which not
            even a second training reaches.
        fooled by: differences between any two trainings, which are no sign of memory; a head that imitates the
            oracle's outputs while the features still know.
        source: Golatkar et al., CVPR 2020 (distance of probabilities); Lin, IEEE Trans. Inf. Theory 1991 (JS).
    """
    return {
        f"{name}_{subset}": mean(values[mask])
        for name, values in distances(tables, model).items()
        for subset, mask in tables.subsets().items()
    }
