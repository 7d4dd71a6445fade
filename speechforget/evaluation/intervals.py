"""Confidence intervals in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def with_student(count: float, freedom: float, confidence: float) -> float:
    """Reduce a number of trials so that Wilson's interval has Student's quantile in place of the normal one."""
    from scipy.special import stdtrit

    tail = 0.5 + confidence / 2
    return count * (NormalDist().inv_cdf(tail) / float(stdtrit(freedom, tail))) ** 2


def clopper_pearson(hits: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact interval of a share (Clopper & Pearson, Biometrika 1934) from counts."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return low, high


def student(numbers: Sequence[float], confidence: float = 0.95, ahead: bool = False) -> tuple[float, float]:
    """Compute Student's interval of the mean of at least two numbers; with `ahead`, that of one further number."""
    from scipy.special import stdtrit

    count = len(numbers)
    width = float(np.std(numbers, ddof=1)) * math.sqrt(1 / count + ahead)
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * width
    return float(np.mean(numbers)) - half, float(np.mean(numbers)) + half


def share(hits: Mask) -> Value:
    """Compute the share of true entries with its 95 % Wilson interval; nan if there are no entries."""
    if not len(hits):
        return NOTHING
    value = float(np.mean(hits))
    return Value(value, *wilson(value, len(hits)), len(hits))


def difference(numbers: NDArray[np.float64], others: NDArray[np.float64]) -> Value:
    """Compute the difference of two means with its 95 % normal interval; `count` is that of the first, both >= 2."""
    value = float(np.mean(numbers) - np.mean(others))
    variance = sum(float(np.var(each, ddof=1)) / len(each) for each in (numbers, others))
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    return Value(value, value - half, value + half, len(numbers))


def mean(numbers: NDArray[np.float64], least: float = 0.0) -> Value:
    """Compute the mean with its 95 % normal interval, which ends at `least`; the interval of one number is nan."""
    if not len(numbers):
        return NOTHING
    value = float(np.mean(numbers))
    if len(numbers) == 1:
        return Value(value, math.nan, math.nan, 1)
    half = NormalDist().inv_cdf(0.975) * float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return Value(value, max(value - half, least), value + half, len(numbers))
