"""Exact tests and intervals over pairs of models.

Which half of a pair is called the first was drawn at random. If the models tell nothing about their halves, both names
are equally likely in each pair. So all exchanges of the two names give the null of any statistic, whatever depends on
whatever inside a pair, such as utterances of one speaker.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike

from speechforget.evaluation.audit.tables import Floats

EXACT_PAIRS, DRAWS = 9, 256
LEVEL = 0.05
Interval = tuple[float, float]


def patterns(pairs: int, seed: int = 0) -> Floats:
    """Return exchanges of the two names in each pair, (B, J) of 1 and -1; the first row exchanges none.

    The first pair is never exchanged: such exchanges are a group, so tests stay exact, and averages with learned
    directions are the same if all pairs are exchanged. Up to 9 pairs all are listed, beyond 256 of them, drawn.
    """
    if pairs <= EXACT_PAIRS:
        rest = np.array(list(itertools.product((1.0, -1.0), repeat=pairs - 1))).reshape(-1, pairs - 1)
    else:
        rest = np.random.default_rng(seed).choice((1.0, -1.0), size=(DRAWS, pairs - 1))
        rest[0] = 1.0
    return np.concatenate([np.ones((len(rest), 1)), rest], axis=1)


def share_as_large(drawn: Floats) -> float:
    """Compute a p-value: the share of the draws (B,) that reach the first one, which is the observed value.

    nan if the smallest p-value that so many draws can give is above 5 %.
    """
    if len(drawn) < 1 / LEVEL:
        return math.nan
    return float((drawn >= drawn[0] - 1e-12 * max(abs(drawn[0]), 1.0)).mean())


def middle(drawn: ArrayLike) -> Interval:
    """Return the bounds of the middle 95 % of draws."""
    low, high = np.quantile(np.asarray(drawn), [0.025, 0.975])
    return float(low), float(high)
