"""Distances between samples of margins, and tests that compare an unlearned model with an oracle and the original.

MMD: Gretton et al. (JMLR 2012), Gaussian kernel. Relative test: Bounliphone et al. (ICLR 2016); for audits
Ribero, Schrab & Gretton (AISTATS 2026, arXiv 2601.19755). Energy distance: Szekely & Rizzo (2013).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.audit.signs import LEVEL, share_as_large
from speechforget.evaluation.audit.tables import Floats

Groups = NDArray[np.int64]
PERMUTATIONS = 999
MOST_FOR_BANDWIDTH = 1000  # utterances from which distances are taken
FEWEST_ORACLES = 3
SMALLEST = 1e-12  # squared distance of models that agree, so that its logarithm is a number


def _columns(sample: Floats) -> Floats:
    """View a sample as (n, d)."""
    return sample[:, None] if sample.ndim == 1 else sample


def _squared(first: Floats, second: Floats) -> Floats:
    """Compute all squared distances. (n, d), (m, d) -> (n, m)"""
    gaps = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.maximum(gaps, 0.0)


def bandwidth(*samples: Floats) -> float:
    """Take the median distance over the joint sample; 1 where all points agree."""
    joint = np.concatenate([_columns(sample) for sample in samples])
    step = -(-len(joint) // MOST_FOR_BANDWIDTH)
    gaps = np.sqrt(_squared(joint[::step], joint[::step]))
    median = float(np.median(gaps[np.triu_indices(len(gaps), 1)])) if len(gaps) > 1 else 0.0
    return median or 1.0


class Test(NamedTuple):
    """The statistic of a test and its p-value."""

    statistic: float
    p: float


def nearer_to_original(
    unlearned: Floats, oracle: Floats, original: Floats, groups: Groups | None = None, seed: int = 0
) -> Test:
    """Test H0: the unlearned model is no nearer to the original than to the oracle.

    All three: (n,) or (n, d), of the same utterances in the same order. groups: (n,), units that are exchanged as a
    whole, such as speakers; by default utterances. Statistic: MMD^2(unlearned, oracle) - MMD^2(unlearned, original),
    unbiased.

    A small p-value says that the model is nearer to the original; it exchanges oracle and original, unit by unit, and
    is nan below 5 units. A model that over-forgets passes, so read it beside `equivalence`.
    """
    count = len(unlearned)
    units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    width = bandwidth(unlearned, oracle, original)
    mine, safe, known = _columns(unlearned), _columns(oracle), _columns(original)

    def kernel(first: Floats, second: Floats) -> Floats:
        return np.exp(-_squared(first, second) / (2 * width**2))

    # An exchange of units changes the sign of their terms, so the statistic is a sum of signed terms.
    across = kernel(safe, known)
    inside = kernel(safe, safe).sum(1) - kernel(known, known).sum(1) + across.sum(1) - across.sum(0)
    near = kernel(mine, safe).sum(0) - kernel(mine, known).sum(0)
    terms = np.bincount(units, inside / (count * (count - 1)) - 2 * near / count**2)
    signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(1 + PERMUTATIONS, len(terms)))
    signs[0] = 1.0
    drawn: Floats = signs @ terms
    p = share_as_large(drawn) if 2 ** len(terms) >= 1 / LEVEL else math.nan
    return Test(float(drawn[0]), p)


def equivalence(unlearned: Floats, oracles: Floats) -> Test:
    """Test H0: the unlearned model is as far from the oracles as they are from each other.

    unlearned: (n,). oracles: (K, n), 2 or more. Statistic: log of the mean MMD^2 of the unlearned model to the oracles,
    with all pairs in its means, so that it is positive. The p-value is the share of the K + 1 models whose mean MMD^2
    to the K others is as large: exact, 1 / (K + 1) or more.

    The logarithm makes the skewed distances of oracles nearly normal, as the band of `evidence.judge` assumes.
    """
    if len(oracles) < FEWEST_ORACLES - 1:  # one of them may stand in the model's place
        raise ValueError("Two or more oracles are needed for a band.")
    models = [_columns(each[:: -(-len(unlearned) // MOST_FOR_BANDWIDTH)]) for each in (unlearned, *oracles)]
    width = bandwidth(*models)
    alike = np.array([[np.exp(-_squared(one, two) / (2 * width**2)).mean() for two in models] for one in models])
    own = np.diag(alike)
    between = np.maximum(own[:, None] + own - 2 * alike, 0.0)
    return rank_test(np.log(np.maximum(between.sum(axis=1) / len(oracles), SMALLEST)))


def rank_test(of_each: Floats) -> Test:
    """Test whether the first of K + 1 exchangeable numbers is among the largest; p is the share that reach it."""
    return Test(float(of_each[0]), float(np.mean(of_each >= of_each[0])))


def energy(first: Floats, second: Floats) -> Floats:
    """Compute, for each utterance, the unbiased energy distance between its margins in two kinds of models.

    first, second: (models, n), 2 or more models each. Returns (n,); 0 in expectation where both kinds agree, so an
    estimate may be negative.
    """
    across = np.abs(first[:, None] - second[None]).mean(axis=(0, 1))
    inside = [
        np.abs(kind[:, None] - kind[None]).sum(axis=(0, 1)) / (len(kind) * (len(kind) - 1)) for kind in (first, second)
    ]
    return 2 * across - inside[0] - inside[1]
