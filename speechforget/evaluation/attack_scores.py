"""Membership attacks by four scores: the AUC, and the true-positive rate at a low false-positive rate."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation import attack_features
from speechforget.evaluation.attack_features import confidence, entropy, modified_entropy
from speechforget.evaluation.divergence import Rows
from speechforget.evaluation.intervals import clopper_pearson
from speechforget.evaluation.membership import area_under_curve, speakers_of
from speechforget.evaluation.tables import NOTHING, Tables, Value, missing

ONE_IN = (100, 1000)  # false-positive rates: 1 % and 0.1 %


def true_positive_rate(members: Rows, nonmembers: Rows, one_in: int) -> Value:
    """Compute the share of members below the best threshold with at most 1 in `one_in` non-members below it.

    A lower score looks more like training data. The interval is Clopper and Pearson's of 95 %, for this threshold.
    `count` is the number of members. A tie with the first non-member that is not allowed is no hit.
    """
    if not len(members) or not len(nonmembers):
        return NOTHING
    if len(nonmembers) < one_in:
        return missing(
            f"a false-positive rate of 1 in {one_in} needs {one_in} non-members; there are {len(nonmembers)}"
        )
    hits = int((members < np.sort(nonmembers)[len(nonmembers) // one_in]).sum())
    return Value(hits / len(members), *clopper_pearson(hits, len(members)), len(members))


def attack_scores(tables: Tables, model: str) -> dict[str, Value]:
    """Attack forget against its non-members by four scores: AUC and true-positive rates.

    Explanation:
        values: membership_auc_<score>, membership_tpr_1_in_<number>_<score>
        meaning: The AUC says how often a forgotten utterance looks more like training data than an utterance that no
            model heard. The true-positive rate says how many forgotten utterances the attack finds when it may accuse 1
            in 100 (or 1 in 1000) of the others falsely. The scores are the loss, the confidence (the largest
            probability, whatever the label), the entropy, and the modified entropy, which combines entropy and label.
        formula: score in {CE, -max_c p_c, -sum p log p, -(1 - p_y) log p_y - sum_{c != y} p_c log(1 - p_c)}; AUC =
            P(score of forget < score of non-member) + ties / 2; TPR = P(score of forget < t) with t the largest
            threshold at which at most n / 100 (n / 1000) of the n non-members lie below t.
        unit: a share in [0, 1]; for the AUC a 99 % interval (as membership_auc), for the rate 95 % (Clopper, Pearson).
        aim: the oracle's value. An AUC far below the oracle's reveals forgotten utterances as surely as one above it.
        fooled by: forget and non-members that differ in more than membership; over-forgetting, which a rate on one
            side alone does not see; too few non-members, and a threshold that they choose.
        source: Yeom et al., CSF 2018; Salem et al., NDSS 2019; Song & Mittal, USENIX Security 2021; Carlini et al.,
            S&P 2022 (rates instead of averages).
    """
    scores, subsets = tables.of(model), tables.subsets()

    def read(subset: str) -> dict[str, Rows]:
        rows = np.flatnonzero(subsets[subset])
        largest, spread, modified = attack_features.read(scores, rows, confidence, entropy, modified_entropy)
        loss = np.asarray(scores.loss[rows])
        return {"loss": loss, "confidence": -largest, "entropy": spread, "modified_entropy": modified}

    forget, nonmembers = read("forget"), read("nonmembers")
    speakers = speakers_of(tables, subsets["forget"], subsets["nonmembers"])
    found = {}
    for name, members in forget.items():
        found[f"membership_auc_{name}"] = area_under_curve(members, nonmembers[name], speakers=speakers)
        for one_in in ONE_IN:
            found[f"membership_tpr_1_in_{one_in}_{name}"] = true_positive_rate(members, nonmembers[name], one_in)
    return found
