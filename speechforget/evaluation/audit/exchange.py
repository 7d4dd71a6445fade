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
        """Attack pairs by one score with their halves exchanged.

        index: (J, 2), rows. signs: (B, J), -1 where the names of the halves are exchanged. Returns (B, J) each.

        Explanation:
            values: swap_auc_<score>, swap_advantage_<score>
            meaning: Two models of a pair forgot one half of the pool each. The attack tells the forgotten half from the
                half that was never heard, in both models, and the mean is taken: a recording that is hard for any model
                looks unheard in both, so its hardness cancels. Scores: the margin (log-odds of the label), the
                confidence (of the likeliest class), the entropy and the modified entropy.
            formula: AUC = mean over both models of P(score of a forgotten unit > score of one never heard) + ties / 2;
                advantage = mean of TPR - FPR at a threshold and direction chosen on all other pairs.
            unit: AUC in [0, 1], advantage in [-1, 1]; 95 % Student interval over pairs; p-values by exchange of halves.
            aim: 0.5 and 0: retraining has them whatever the attack. An AUC below 0.5 is over-forgetting.
            fooled by: methods that move each recording's own margin by much and the average by little, as gradient
                ascent on samples does: read per_utterance_auc. It is an audit of the method at this kind of request,
                not of one model.
            source: Tu, Hu & Ma, NeurIPS 2025, arXiv 2404.11577 (SWAP test).
        """
        pairs = np.arange(len(index))
        areas = (self.areas[index[:, 0], pairs] - self.areas[index[:, 1], pairs]) / 2
        gaps = (self.gaps[index[:, 0], pairs] - self.gaps[index[:, 1], pairs]) / 2
        exchanged = signs[:, :, None] * gaps
        others = exchanged.sum(axis=1, keepdims=True) - exchanged
        best = np.abs(others).argmax(axis=2)[:, :, None]
        value = np.take_along_axis(exchanged, best, axis=2) * np.sign(np.take_along_axis(others, best, axis=2))
        return {f"swap_auc_{self.name}": 0.5 + signs * areas, f"swap_advantage_{self.name}": value[:, :, 0]}


def mean_of(values: Floats | Mask) -> float:
    """Compute a mean; nan without values."""
    return float(np.mean(values)) if len(values) else float("nan")


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
        """Attack pairs by a rule that was learned on all other pairs of the same method, with their halves exchanged.

        index, signs and shapes as for `Exchange`. The threshold is halfway between the means on the other pairs.

        Explanation:
            values: swap_auc_informed, swap_advantage_informed
            meaning: An attacker who knows the method trains on other models that the same method made, and learns how
                forgotten recordings differ from unheard ones: by low or high margins, by entropy, or by a mixture. It
                finds over-forgetting as well as remembering.
            formula: Fisher's discriminant on the scores of a unit, fitted on all other pairs; AUC and TPR - FPR as for
                swap_auc_<score>.
            unit: AUC in [0, 1], advantage in [-1, 1]; 95 % Student interval over pairs; p-values by exchange of halves.
            aim: 0.5 and 0.
            fooled by: few pairs to learn from; differences that are not linear in the scores.
            source: after Tu, Hu & Ma, NeurIPS 2025, arXiv 2404.11577, with an attacker informed of the method.
        """
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
                hits = [mean_of(model[side] > cuts[number]) for model in (first, second) for side in (zero, one)]
                areas[number, pair] = 0.5 + sign * found
                advantages[number, pair] = sign * (hits[0] - hits[1] - hits[2] + hits[3]) / 2
        return {"swap_auc_informed": areas, "swap_advantage_informed": advantages}
