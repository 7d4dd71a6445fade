"""What the models before and after a request give away together: which recordings were deleted."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.attack_scores import true_positive_rate
from speechforget.evaluation.audit.attack_scores import margin
from speechforget.evaluation.membership import area_under_curve, speakers_of
from speechforget.evaluation.tables import Scores, Tables, Value, missing

NAMES = ("deleted_found_auc", "deleted_found_tpr_1_in_100", "deleted_found_in_training_auc", "deleted_found_nothing")
SAME = "before and after are the same model"
ONE_IN = 100


def deleted_found(tables: Tables, model: str) -> dict[str, Value]:
    """Attack with the models before and after: are the recordings found whose margin fell most?

    Explanation:
        values: deleted_found_auc, deleted_found_tpr_1_in_100, deleted_found_in_training_auc, deleted_found_nothing
        meaning: An attacker who keeps the original and gets the model after a request asks which recordings were
            deleted. The score of a candidate is how far its margin fell. Candidates are forget and its non-members, or
            forget and retain. Exact deletion reveals them, too, so the oracle's value is the reference, not 0.5. The
            last number is what the same attack finds between two oracles, where nothing of the request was deleted.
        formula: score = m_before - m_after, with m = z_y - log sum of exp z over the other classes; AUC = P(score of
            forget > score of other) + ties / 2; TPR = share of forget above a threshold with at most 1 in 100
            non-members above it; _nothing: the largest AUC over ordered pairs of oracles, against
            non-members.
        unit: a share in [0, 1]; AUC with a 99 % interval (as membership_auc), TPR with a 95 % one (Clopper, Pearson).
            `count` of _nothing is ordered pairs; that of a pair in the other order is 1 minus its AUC, so it is at
            least 0.5.
        aim: the oracle's value. Above it, the method marks what it deleted. The original itself has no value.
        fooled by: an attacker who knows the method and fits an attack to it finds more; forget and non-members that
            differ in more than membership. One AUC is noise as long as it is not above _nothing.
        source: Chen et al., "When machine unlearning jeopardizes privacy", CCS 2021, arXiv 2005.02205 (attack with both
            models); Hu et al., S&P 2024, arXiv 2404.03233 (inversion of what was unlearned). Both train shadow models;
            this score needs none.
    """
    if model == "original":
        return dict.fromkeys(NAMES, missing(SAME))
    subsets = tables.subsets()
    forget, others, retain = (np.flatnonzero(subsets[name]) for name in ("forget", "nonmembers", "retain"))
    before, after = tables.original, tables.of(model)
    found, other = _risen(before, after, forget), _risen(before, after, others)
    speakers = speakers_of(tables, subsets["forget"], subsets["nonmembers"])
    return {
        NAMES[0]: area_under_curve(found, other, speakers=speakers),
        NAMES[1]: true_positive_rate(found, other, ONE_IN),
        NAMES[2]: area_under_curve(
            found, _risen(before, after, retain), speakers=speakers_of(tables, subsets["forget"], subsets["retain"])
        ),
        NAMES[3]: _nothing(tables, forget, others),
    }


def _risen(before: Scores, after: Scores, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute how far the margin of each row rose; what fell most looks most like deleted."""
    first, second = (margin(np.asarray(each.logits[rows]), each.label[rows]) for each in (before, after))
    return second - first


def _nothing(tables: Tables, forget: NDArray[np.int64], others: NDArray[np.int64]) -> Value:
    """Attack between oracles, none of which heard forget or its non-members."""
    if len(tables.oracles) < 2:
        return missing("fewer than 2 oracles: raise evaluation.oracles")
    pairs = [
        area_under_curve(_risen(one, other, forget), _risen(one, other, others))
        for one, other in permutations(tables.oracles, 2)
    ]
    missed = [pair for pair in pairs if not math.isfinite(pair.value)]
    return missed[0] if missed else Value(max(pair.value for pair in pairs), math.nan, math.nan, len(pairs))
