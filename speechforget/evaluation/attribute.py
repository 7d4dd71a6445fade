"""A request for an attribute: does the model serve its values alike, and does it use the attribute for the label?"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.groups import FEWEST
from speechforget.evaluation.tables import Mask, Tables, Value, missing

SUBSETS = ("validation", "test")  # no model was trained on them
NOT_ASKED = "the request removes no attribute (task=attribute)"
NO_CUE = "in training, no value of the attribute is more frequent in one label than in others"
TOO_FEW = f"fewer than two values of the attribute have {FEWEST} utterances here"
EQUAL = 1e-9  # difference of shares


def attribute_gap(tables: Tables, model: str) -> dict[str, Value]:
    """Compute how accuracy differs between values of the attribute, and with and against its cue.

    Explanation:
        values: attribute_gap_validation, attribute_gap_test, attribute_cue_validation, attribute_cue_test
        meaning: gap: how much better the model serves the value that it serves best than the one that it serves worst,
            such as female and male speakers; `named` in result.json has the accuracy of each. cue: how much better it
            is on utterances whose value was more frequent in their label than elsewhere in training than on those
            whose value was less frequent. A model that takes the attribute for a hint of the label has a cue above 0.
        formula: gap: largest minus smallest accuracy of values with 5 utterances or more. cue: sum_y w_y (accuracy with
            the cue - accuracy against it) / sum_y w_y over labels y, w_y = n m / (n + m) of their n and m utterances;
            with the cue: p(value | y) > p(value) in the original's training set.
        unit: differences of shares; cue has a 95 % normal interval over utterances; `count` is utterances.
        aim: the oracle's value, whose training set has no cue. gap is never negative and cue is 0 without any use.
        fooled by: gap: few utterances, which spread the accuracies of values by chance. cue: a model that is wrong with
            and against the cue alike; read accuracy_test. Utterances of one speaker are not independent, so intervals
            are too narrow.
        source: gap: subgroup gap, as in Nguyen, Cheng & Amiri, arXiv 2606.18571. cue: weights of Mantel & Haenszel
            (1959); interval of Agresti & Caffo, The American Statistician 2000, for each label.
    """
    names = [f"attribute_{what}_{subset}" for what in ("gap", "cue") for subset in SUBSETS]
    if tables.attribute is None:
        return dict.fromkeys(names, missing(NOT_ASKED))
    scores, subsets = tables.of(model), tables.subsets()
    right = (scores.predicted == scores.label).astype(np.float64)
    side = with_cue(tables.attribute, scores.label, subsets["forget"] | subsets["retain"])
    found = {f"attribute_gap_{name}": _gap(right, tables.attribute, subsets[name]) for name in SUBSETS}
    cues = {f"attribute_cue_{name}": _cue(right, scores.label, side, subsets[name]) for name in SUBSETS}
    return found | cues


def with_cue(attribute: NDArray[np.str_], label: NDArray[np.int64], trained: Mask) -> NDArray[np.int64]:
    """Return 1 where an utterance's value was more frequent in its label than in all of training, -1 where less.

    attribute: (n,) str, "" where unknown: 0, as where the shares are equal. trained: (n,) bool.
    """
    values, places = np.unique(attribute, return_inverse=True)
    counts = np.zeros((int(label.max()) + 1, len(values)))
    np.add.at(counts, (label[trained], places[trained]), 1)
    counts[:, values == ""] = 0
    shares = counts.sum(axis=0) / max(counts.sum(), 1)
    more = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) - shares
    sides: NDArray[np.int64] = np.where(np.abs(more) > EQUAL, np.sign(more), 0).astype(np.int64)[label, places]
    return np.where(attribute == "", 0, sides)


def _gap(right: NDArray[np.float64], attribute: NDArray[np.str_], mask: Mask) -> Value:
    groups = {str(name): right[mask & (attribute == name)] for name in np.unique(attribute[mask]) if name}
    means = {name: float(each.mean()) for name, each in groups.items() if len(each) >= FEWEST}
    if len(means) < 2:
        return missing(TOO_FEW)
    named = tuple(f"{name}: {mean:.3f}" for name, mean in means.items())
    count = sum(len(groups[name]) for name in means)
    return Value(max(means.values()) - min(means.values()), math.nan, math.nan, count, named=named)


def _cue(right: NDArray[np.float64], label: NDArray[np.int64], side: NDArray[np.int64], mask: Mask) -> Value:
    if not side.any():
        return missing(NO_CUE)
    total, weight, variance, count = 0.0, 0.0, 0.0, 0
    for number in np.unique(label[mask]):
        pairs = [right[mask & (label == number) & (side == sign)] for sign in (1, -1)]
        sizes = [len(each) for each in pairs]
        if not all(sizes):
            continue
        own = sizes[0] * sizes[1] / sum(sizes)
        total += own * float(pairs[0].mean() - pairs[1].mean())
        variance += own**2 * sum(_variance(each) for each in pairs)
        weight, count = weight + own, count + sum(sizes)
    if not count:
        return missing("no label has utterances with the cue and against it here")
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / weight
    value = total / weight
    return Value(value, max(value - half, -1.0), min(value + half, 1.0), count)


def _variance(right: NDArray[np.float64]) -> float:
    """Return the variance of a share with one more success and one more failure."""
    share = (right.sum() + 1) / (len(right) + 2)
    return float(share * (1 - share) / (len(right) + 2))
