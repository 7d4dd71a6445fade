"""SWAP: attacks on a pair of models with the roles of its halves exchanged.

Tu, Hu & Ma (NeurIPS 2025, arXiv 2404.11577). An utterance that is hard to recognise looks unheard in both models of a
pair, so its hardness cancels. For an oracle, AUC - 1/2 and the advantage of every attack are 0 by symmetry.
"""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.audit.pool import Mask
from speechforget.evaluation.audit.tables import Floats, Integers

CUTS = 127  # thresholds that are tried
Found = dict[str, Floats]


def area(positives: Floats, negatives: Floats) -> float:
    """Compute the AUC: the share of (positive, negative) with the positive larger, ties half, in [0, 1].

    nan if either is empty.
    """
    if not len(positives) or not len(negatives):
        return float("nan")
    # Sorted needles are found several times faster.
    ordered, needles = np.sort(negatives), np.sort(positives)
    left, right = np.searchsorted(ordered, needles, "left"), np.searchsorted(ordered, needles, "right")
    return float((left + right).mean() / (2 * len(ordered)))


class Exchange:
    """Attack by one score. Built from the scores of models (M, u), halves (J, u) and attacked units (J, u)."""

    def __init__(self, name: str, values: Floats, half: Integers, units: Mask) -> None:
        """Compute, for each model and pair, the AUC of half 0 against half 1, and the difference of shares above cuts.

        The cuts are quantiles of all scores, so they know no halves.
        """
        self.name = name
        self.cuts = np.unique(np.quantile(values, np.linspace(0, 1, CUTS + 2)[1:-1]))
        self.areas = np.empty((len(values), len(half)))
        self.gaps = np.empty((len(values), len(half), len(self.cuts)))
        for pair, (names, mask) in enumerate(zip(half, units, strict=True)):
            zero, one = mask & (names == 0), mask & (names == 1)
            for model, scores in enumerate(values):
                self.areas[model, pair] = area(scores[zero], scores[one])
                self.gaps[model, pair] = _above(scores[zero], self.cuts) - _above(scores[one], self.cuts)

    def __call__(self, index: Integers, signs: Floats) -> Found:
        """Attack pairs whose names are exchanged where the sign is -1. index: (J, 2), rows. signs: (B, J).

        Returns (B, J) each. `swap_auc_<score>`: mean over both exchanges of the AUC of the forgotten half against the
        half that was never heard. `swap_advantage_<score>`: TPR - FPR of a threshold, as a mean over both exchanges;
        threshold and direction are those that do best on all other pairs, so a pair never chooses its own.
        """
        pairs = np.arange(len(index))
        areas = (self.areas[index[:, 0], pairs] - self.areas[index[:, 1], pairs]) / 2
        gaps = (self.gaps[index[:, 0], pairs] - self.gaps[index[:, 1], pairs]) / 2
        exchanged = signs[:, :, None] * gaps
        others = exchanged.sum(axis=1, keepdims=True) - exchanged
        best = np.abs(others).argmax(axis=2)[:, :, None]
        value = np.take_along_axis(exchanged, best, axis=2) * np.sign(np.take_along_axis(others, best, axis=2))
        return {f"swap_auc_{self.name}": 0.5 + signs * areas, f"swap_advantage_{self.name}": value[:, :, 0]}


def _above(scores: Floats, cuts: Floats) -> Floats:
    """Compute the share of the scores above each cut; nan without scores."""
    if not len(scores):
        return np.full(len(cuts), np.nan)
    found: Floats = 1 - np.searchsorted(np.sort(scores), cuts, "right") / len(scores)
    return found


class Informed:
    """Attack by a linear rule of several features, learned on all other pairs of the same method.

    The rule is Fisher's discriminant, the limit of logistic regression for small differences. With the covariance of
    all units, whatever their half, it has a closed form, so each exchange of names is learned anew.
    """

    name = "informed"

    def __init__(self, features: Floats, half: Integers, units: Mask) -> None:
        """Compute the means of each half in each model. features: (M, u, f). half, units: (J, u)."""
        spread = features.std(axis=(0, 1))
        self.features = (features - features.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1.0)
        self.half, self.units = half, units
        weights = np.where(half == 0, 1 / (half == 0).sum(1, keepdims=True), -1 / (half == 1).sum(1, keepdims=True))
        self.gaps = np.einsum("ju,muf->mjf", weights, self.features)
        self.square = np.einsum("muf,mug->mfg", self.features, self.features) / features.shape[1]
        self.mean = self.features.mean(axis=1)

    def __call__(self, index: Integers, signs: Floats) -> Found:
        """Attack pairs as `Exchange` does. The threshold is halfway between the means on the other pairs."""
        pairs, width = len(index), self.features.shape[2]
        gaps = (self.gaps[index[:, 0], np.arange(pairs)] - self.gaps[index[:, 1], np.arange(pairs)]) / 2
        exchanged = signs[:, :, None] * gaps
        learned = exchanged.sum(axis=1, keepdims=True) - exchanged
        areas, advantages = np.empty(signs.shape), np.empty(signs.shape)
        for pair in range(pairs):
            rows = np.delete(index, pair, axis=0).ravel()
            mean = self.mean[rows].mean(axis=0)
            covariance = self.square[rows].mean(axis=0) - np.outer(mean, mean) + 1e-6 * np.eye(width)
            weights = np.linalg.solve(covariance, learned[:, pair].T)
            zero, one = (self.units[pair] & (self.half[pair] == side) for side in (0, 1))
            models = self.features[index[pair]] @ weights  # (2, u, B)
            cuts = mean @ weights
            for number, sign in enumerate(signs[:, pair]):
                first, second = models[0, :, number], models[1, :, number]
                found = (area(first[zero], first[one]) - area(second[zero], second[one])) / 2
                hits = [np.mean(model[side] > cuts[number]) for model in (first, second) for side in (zero, one)]
                areas[number, pair] = 0.5 + sign * found
                advantages[number, pair] = sign * (hits[0] - hits[1] - hits[2] + hits[3]) / 2
        return {"swap_auc_informed": areas, "swap_advantage_informed": advantages}
