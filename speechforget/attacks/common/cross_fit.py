"""Fit linear probes in folds, so that no utterance is judged by a probe that was fitted on it or on its group."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.divergence import log_softmax
from speechforget.evaluation.intervals import wilson
from speechforget.evaluation.tables import Value

Rows = NDArray[np.int64]
Features = NDArray[np.float64]

ITERATIONS = 200
TOLERANCE = 1e-3


class Fitted(NamedTuple):
    """Hold what the probes say of n utterances, each judged by the probe of its fold.

    log_probability: (n, classes) in nats, by a probe that gives all classes the same weight. fold: (n,), -1 for an
    utterance that no probe judged, because the others of its fold are of one class only.
    """

    log_probability: Features
    fold: Rows


def folds_of(target: Rows, groups: Rows, folds: int, seed: int) -> Rows:
    """Split utterances into folds with similar shares of each class; all utterances of a group are in one fold.

    Returns the fold of each utterance (n,). There are fewer folds if there are fewer groups, and none if there is one
    group: then every fold is -1.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.full(len(target), -1)
    count = min(folds, len(np.unique(groups)))
    if count < 2:
        return found
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class may be rarer than the folds
        for number, (_, judged) in enumerate(splitter.split(np.zeros((len(target), 1)), target, groups)):
            found[judged] = number
    return found


def cross_fit(
    features: Features,
    target: Rows,
    fold: Rows,
    fitted: NDArray[np.bool_],
    strength: float,
    strata: Rows | None = None,
) -> Fitted:
    """Judge each utterance by a logistic regression on standardised features, fitted on the other folds.

    features: (n, width). target: (n,) classes from 0. fitted: (n,) whether an utterance is used to fit probes; the
    others are judged only. strength: sklearn's C, the inverse of the L2 penalty. strata: (n,) numbers from 0; the mean
    of each stratum, of the utterances that fit, is subtracted. It is for classes that were matched by strata: a fold
    with more of a stratum leaves fewer to the others, so a probe of strata would be wrong more often than by chance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = int(target.max()) + 1
    found, judged_in = np.full((len(target), classes), -np.inf), np.full(len(target), -1)
    for number in np.unique(fold[fold >= 0]):
        judged, others = fold == number, (fold >= 0) & (fold != number) & fitted
        known = np.unique(target[others])
        if len(known) < 2:
            continue
        values = features if strata is None else _centred(features, strata, others)
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=ITERATIONS, tol=TOLERANCE)
        probe = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(values[others], target[others])
        margin = probe.decision_function(values[judged])
        logits = margin if margin.ndim == 2 else np.column_stack([np.zeros(len(margin)), margin])
        found[np.ix_(judged, known)] = log_softmax(logits)
        judged_in[judged] = number
    return Fitted(found, judged_in)


def _centred(features: Features, strata: Rows, fitted: NDArray[np.bool_]) -> Features:
    """Subtract the mean of each stratum over `fitted`; that of all of `fitted` where a stratum has none there."""
    means = np.tile(features[fitted].mean(0), (int(strata.max()) + 1, 1))
    for number in np.unique(strata[fitted]):
        means[number] = features[fitted & (strata == number)].mean(0)
    return features - means[strata]


def area(fitted: Fitted, positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> Value:
    """Compute the AUC of class 1 over pairs of a positive and a negative utterance of one fold; 0.5 is guessing.

    Pairs of two folds do not count, because their probes differ in threshold. The 95 % interval is Wilson's with the
    variance of Hanley & McNeil (Radiology 1982), as if utterances were independent. `count` is the number of positives.
    Returns nan with count 0 if no fold has both.
    """
    wins, pairs, used = 0.0, 0, 0
    with np.errstate(invalid="ignore"):
        margin = fitted.log_probability[:, 1] - fitted.log_probability[:, 0]
    for number in np.unique(fitted.fold[fitted.fold >= 0]):
        these = fitted.fold == number
        ours, others = margin[these & positive], np.sort(margin[these & negative])
        below, until = np.searchsorted(others, ours, "left"), np.searchsorted(others, ours, "right")
        wins += float((below + until).sum()) / 2
        pairs += len(ours) * len(others)
        used += len(ours) if len(others) else 0
    if not pairs:
        return Value(math.nan, math.nan, math.nan, 0)
    value = wins / pairs
    return Value(value, *wilson(value, trials_of(value, used, int(negative.sum()))), used)


def trials_of(value: float, positives: int, negatives: int) -> float:
    """Return the effective number of trials of an AUC: AUC (1 - AUC) / variance, or the smaller number without any."""
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positives - 1) * (first - value**2) + (negatives - 1) * (second - value**2)
    variance = spread / (positives * negatives)
    smaller = float(min(positives, negatives))
    return value * (1 - value) / variance if variance > 1e-12 else smaller


def balanced_accuracy(fitted: Fitted, target: Rows, judged: NDArray[np.bool_]) -> Value:
    """Compute the mean over classes of the share of judged utterances that are predicted right.

    The 95 % interval is Wilson's with the effective number of trials of such a mean. `count` is utterances.
    """
    used = judged & (fitted.fold >= 0)
    if not used.any():
        return Value(math.nan, math.nan, math.nan, 0)
    right = fitted.log_probability[used].argmax(1) == target[used]
    labels = target[used]
    shares = np.array([right[labels == number].mean() for number in np.unique(labels)])
    sizes = np.array([np.sum(labels == number) for number in np.unique(labels)])
    value = float(shares.mean())
    variance = float((shares * (1 - shares) / sizes).sum()) / len(shares) ** 2
    trials = value * (1 - value) / variance if variance > 1e-12 else float(len(labels))
    return Value(value, *wilson(value, trials), int(used.sum()))


def information(fitted: Fitted, target: Rows, judged: NDArray[np.bool_]) -> float:
    """Compute H(Y) - cross-entropy in nats, a lower bound of the mutual information of features and classes.

    Every class of the judged utterances has the same weight. It is negative if the probe knows less than nothing; -inf
    if a class was unknown to a probe. nan if no utterance was judged.
    """
    used = judged & (fitted.fold >= 0)
    classes = np.unique(target[used])
    if not len(classes):
        return math.nan
    told = fitted.log_probability[used, target[used]]
    return math.log(len(classes)) + float(np.mean([told[target[used] == number].mean() for number in classes]))
