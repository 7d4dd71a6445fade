"""Interclass confusion: a request with a known answer, whose recordings were trained on with a wrong label."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Tables, Value, missing

SUBSETS = ("forget", "retain", "validation", "test")
NOT_EXCHANGED = "no labels were exchanged (dataset.confused)"


def confusion(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the share of two classes' utterances that are taken for the other class.

    Explanation:
        values: confusion_forget, confusion_retain, confusion_validation, confusion_test
        meaning: With dataset.confused, the labels of some training utterances of two classes are exchanged, and the
            request is to forget these. The original learned to confuse the two; an oracle confuses them no more than
            by nature. What is left of the confusion is left of the request.
        formula: among utterances whose true label is one of the two: P(prediction = the other one), over all K outputs.
        unit: a share in [0, 1] with a 95 % Wilson interval; `count` is utterances of the two classes.
        aim: the oracle's value; test says whether the wrong labels still harm utterances that no model heard.
        fooled by: a model that takes both classes for a third one; read accuracy_test, too.
        source: Goel et al., "Towards adversarial evaluations for inexact machine unlearning", arXiv 2201.06640, which
            counts errors instead of shares. True labels count here in every subset, forget included.
    """
    if not tables.confused:
        return {f"confusion_{name}": missing(NOT_EXCHANGED) for name in SUBSETS}
    first, second = tables.confused
    scores, subsets = tables.of(model), tables.subsets()
    other = np.where(scores.label == first, second, first)
    pair = np.isin(scores.label, tables.confused)
    return {f"confusion_{name}": share((scores.predicted == other)[subsets[name] & pair]) for name in SUBSETS}
