"""Whether the non-members of the attacks are what attacks take them for: utterances that no model heard."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.membership import area_under_curve, speakers_of
from speechforget.evaluation.tables import Tables, Value


def nonmembers_heard(tables: Tables, model: str) -> dict[str, Value]:
    """Attack the non-members themselves: their losses against those of test utterances with the same labels.

    Explanation:
        values: nonmembers_auc
        meaning: Attacks take the non-members for utterances that no model heard. A method that trains on them spoils
            every attack: forgotten utterances then look no more known than these. This number is how often a non-member
            has a lower loss than a test utterance of one of the same labels. If a model heard the non-members, it is
            higher than in oracles.
        formula: P(loss of non-member < loss of test utterance) + P(equal) / 2.
        unit: a share in [0, 1] with a 99 % interval (as membership_auc); `count` is test utterances.
        aim: the oracle's value, not 0.5: test may hold other speakers.
        fooled by: a method that trains on test, too; a method that trains on a few of the non-members.
        source: ours; the attack is that of Yeom et al., CSF 2018.
    """
    subsets, loss = tables.subsets(), tables.of(model).loss
    ours = subsets["nonmembers"]
    label = tables.original.label
    others = (subsets["test"] | subsets["test_forgotten"]) & np.isin(label, label[ours])
    speakers = speakers_of(tables, ours, others)
    return {"nonmembers_auc": area_under_curve(loss[ours], loss[others], speakers=speakers)}
