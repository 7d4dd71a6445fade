"""Attacks that know each utterance: how its margin behaves when it was forgotten, and when it was never heard.

U-LiRA (Hayes et al., SaTML 2025, arXiv 2403.01218) and the efficacy game of RULI (USENIX Security 2025,
arXiv 2506.13009). With margins m of an utterance x in models that forgot it (mean f_x) and in models of the other kind
(mean o_x), the score of a further margin is the log ratio of two Gaussians with one shared variance s^2:

    score(m) = ((m - o_x)^2 - (m - f_x)^2) / (2 s^2)

Models that are scored are never fitted on: with 8 models a side, scoring fitted ones gives an accuracy of 0.61 where
nothing can be told. The variance is shared by all utterances, as is right below 64 models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from speechforget.evaluation.audit.exchange import Found, area, mean_of
from speechforget.evaluation.audit.pool import Mask, split
from speechforget.evaluation.audit.tables import Floats, Integers

LEAST_VARIANCE = 1e-12  # nats squared: models that agree exactly still give finite scores
RATES = {"1_percent": 0.01, "0.1_percent": 0.001}


class Fit(NamedTuple):
    """Hold the mean margin of each unit (u,) in two kinds of models, and the variance that all units share."""

    first: Floats
    second: Floats
    variance: float

    def score(self, margins: Floats) -> Floats:
        """Score margins (u,) in favour of the first kind."""
        found: Floats = ((margins - self.second) ** 2 - (margins - self.first) ** 2) / (2 * self.variance)
        return found


def fits(first: Floats, second: Floats) -> list[Fit]:
    """Fit two kinds of models (m, u), m >= 2, once without each row of both."""
    count = len(first) - 1
    sums = [values.sum(axis=0) for values in (first, second)]
    squares = [np.einsum("mu,mu->m", values, values) for values in (first, second)]
    found = []
    for row in range(len(first)):
        means = [(total - values[row]) / count for total, values in zip(sums, (first, second), strict=True)]
        variance = 1.0
        if count > 1:
            left = [total.sum() - total[row] for total in squares]
            spreads = [total - count * float(mean @ mean) for total, mean in zip(left, means, strict=True)]
            variance = float(sum(spreads)) / (2 * (count - 1) * first.shape[1])
        found.append(Fit(means[0], means[1], max(variance, LEAST_VARIANCE)))
    return found


def left_out(forgotten: Floats, unheard: Floats) -> tuple[Floats, Floats]:
    """Score each pair by a fit on all others. forgotten, unheard: (J, u) margins. Returns scores (J, u) of both."""
    found = fits(forgotten, unheard)
    up, down = ([fit.score(row) for fit, row in zip(found, rows, strict=True)] for rows in (forgotten, unheard))
    return np.array(up), np.array(down)


def hit_rate(positives: Floats, negatives: Floats, rate: float) -> float:
    """Compute the TPR at the lowest threshold whose FPR is at most `rate`; nan below 1 / rate negatives."""
    allowed = int(len(negatives) * rate + 1e-9)
    if not allowed:
        return float("nan")
    cut = np.partition(negatives, -allowed - 1)[-allowed - 1]
    return float(np.mean(positives > cut))


class PerUtterance:
    """Tell forgotten units from units that were never heard, in models that forgot others (U-LiRA).

    Built from margins (M, u), halves (J, u) and the units (J, u) that are attacked.
    """

    name = "per_utterance"

    def __init__(self, margins: Floats, half: Integers, units: Mask) -> None:
        """Keep the margins."""
        self.margins, self.half, self.units = margins, half, units

    def __call__(self, index: Integers, signs: Floats) -> Found:
        """Attack each unit by its own margins in other models.

        index: (J, 2). signs: (B, J), -1 where the names of the halves are exchanged. Returns (B, J), and (B, 1) for
        rates over the scores of all pairs.

        Explanation:
            values: per_utterance_auc, per_utterance_accuracy, per_utterance_tpr_at_<rate>, exposure
            meaning: For each recording, models that forgot it are compared with models that never heard it and forgot
                others. What is usual for this very recording is the yardstick, so the attack finds what averages over
                recordings hide. exposure is the mean difference of the two margins.
            formula: log ratio of two normal densities with one shared variance, fitted on the other pairs and scored on
                the pair that is left out; AUC; balanced accuracy at ratio 1; TPR at the lowest threshold whose FPR is
                at most the rate; exposure = mean margin when forgotten - mean margin when never heard.
            unit: shares in [0, 1], exposure in nats; 95 % Student interval over pairs, Clopper-Pearson for rates.
            aim: 0.5, 0.5, the rate, and 0.
            fooled by: few pairs: with fewer than 64 models each fit is rough, and the attack is weaker than it could
                be. 0.1 % needs 1,000 negatives.
            source: Hayes et al., SaTML 2025, arXiv 2403.01218 (U-LiRA); Carlini et al., S&P 2022.
        """
        forgotten, unheard = split(self.margins, index, self.half)
        names = ["per_utterance_auc", "per_utterance_accuracy", "exposure"]
        found = {name: np.empty(signs.shape) for name in names}
        found |= {f"per_utterance_tpr_at_{rate}": np.empty((len(signs), 1)) for rate in RATES}
        for number, sign in enumerate(signs):
            same = sign[:, None] > 0
            first, second = np.where(same, forgotten, unheard), np.where(same, unheard, forgotten)
            up, down = left_out(first, second)
            for pair, mask in enumerate(self.units):
                high, low = up[pair, mask], down[pair, mask]
                found["per_utterance_auc"][number, pair] = area(high, low)
                found["per_utterance_accuracy"][number, pair] = (_above_zero(high) + 1 - _above_zero(low)) / 2
                found["exposure"][number, pair] = mean_of((first - second)[pair, mask])
            for rate, share in RATES.items():
                tpr = hit_rate(up[self.units], down[self.units], share)
                found[f"per_utterance_tpr_at_{rate}"][number] = tpr
        return found


def _above_zero(scores: Floats) -> float:
    """Compute the share of scores above 0, ties half."""
    return mean_of(scores > 0) + mean_of(scores == 0) / 2


def told_from_oracles(models: Floats, oracles: Floats, half: Integers) -> Floats:
    """Tell models from oracles by the margins of the units that were forgotten (RULI, efficacy).

    models: (m, u), row j holds each unit's margin under the model of pair j that forgot it. oracles: (K, u). half:
    (m, u), the half of pair j that holds a unit. Two or more models of each kind. In turn, one of each kind is left
    out and scored by equally many others of both kinds. Returns the AUC of each turn, 0.5 in expectation where
    nothing can be told: the mean over both halves, so that one model is compared with one oracle.
    """
    count = min(len(models), len(oracles))
    up, down = left_out(models[:count], oracles[:count])
    sides = [half[:count] == side for side in (0, 1)]
    turns = [[area(up[row, side[row]], down[row, side[row]]) for side in sides] for row in range(count)]
    return np.mean(turns, axis=1)
