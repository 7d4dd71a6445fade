"""Confidence intervals in closed form."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.tables import NOTHING, Mask, Value


def wilson(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval (JASA 1927) of a share in [0, 1] observed in `count` trials.

    count: may be fractional, as an effective number of trials is.
    """
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count * count))) / (1 + z2 / count)
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def share(hits: Mask) -> Value:
    """Compute the share of true entries with its 95 % Wilson interval; nan if there are no entries."""
    if not len(hits):
        return NOTHING
    value = float(np.mean(hits))
    return Value(value, *wilson(value, len(hits)), len(hits))


def mean(numbers: NDArray[np.float64]) -> Value:
    """Compute the mean of non-negative numbers with its 95 % normal interval; the interval of one number is nan."""
    if not len(numbers):
        return NOTHING
    value = float(np.mean(numbers))
    if len(numbers) == 1:
        return Value(value, math.nan, math.nan, 1)
    half = NormalDist().inv_cdf(0.975) * float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return Value(value, max(value - half, 0.0), value + half, len(numbers))
