"""Calibration: does a model that is 80 % sure have 80 % of its answers right?"""

from __future__ import annotations

import math

import numpy as np

from speechforget.evaluation.attack_features import confidence, correctness, read
from speechforget.evaluation.divergence import Rows
from speechforget.evaluation.tables import NOTHING, Tables, Value

BINS = 15


def expected_calibration_error(sure: Rows, right: Rows) -> float:
    """Compute the sum over bins of |number right - sum of confidences| / n.

    There are `BINS` bins (low, high] of equal width.

    sure: largest probabilities in [0, 1], (n,). right: 1 or 0, (n,).
    """
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, right - sure, minlength=BINS)).sum() / len(sure))


def calibration(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the expected calibration error of each subset.

    Explanation:
        values: calibration_error_<subset>
        meaning: The mean difference between how sure the model is and how often it is right, over 15 groups of
            utterances of similar confidence. A method that makes a model less sure of everything shows here, even if
            every answer stays the same.
        formula: ECE = sum_b n_b / n |accuracy_b - mean confidence_b| over 15 bins (low, high] of equal width in [0, 1];
            confidence is the largest probability.
        unit: a share in [0, 1]; no interval.
        aim: the oracle's value. On forget the original's is small, because it was trained to be sure there.
        fooled by: few utterances, which raise it even for a perfectly calibrated model; a model that gives every
            utterance the frequencies of the classes.
        source: Naeini et al., AAAI 2015; Guo et al., ICML 2017 (15 bins).
    """
    scores = tables.of(model)
    sure, right = read(scores, np.arange(len(scores.label)), confidence, correctness)
    found = {}
    for subset, mask in tables.subsets().items():
        found[f"calibration_error_{subset}"] = NOTHING
        if count := int(mask.sum()):
            error = expected_calibration_error(sure[mask], right[mask])
            found[f"calibration_error_{subset}"] = Value(error, math.nan, math.nan, count)
    return found
