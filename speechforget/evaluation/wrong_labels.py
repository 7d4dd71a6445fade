"""A request with a known answer: recordings that were trained on with the label of another class."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.intervals import mean, share
from speechforget.evaluation.tables import Tables, Value, missing

NO_WRONG_LABELS = "no training recording has a wrong label (dataset.mislabelled, dataset.confused)"
NAMES = ("wrong_label_forget", "accuracy_returned_test")


def wrong_labels(tables: Tables, model: str) -> dict[str, Value]:
    """Compute how many wrong labels a model still knows, and the test accuracy that it won back.

    Explanation:
        values: wrong_label_forget, accuracy_returned_test
        meaning: With dataset.mislabelled, some training utterances have the label of another class, and the request is
            to forget these. How many of them still get the wrong label that was taught, and how much better the model
            is on test than the original, which learned the wrong labels.
        formula: P(prediction = taught label) over utterances of forget whose taught label is wrong; accuracy on test
            minus the original's.
        unit: a share in [0, 1] with a 95 % Wilson interval; a difference of shares with a 95 % normal interval over
            utterances (paired).
        aim: the oracle's values. An oracle gives a wrong label to those that sound like it.
        fooled by: a model that answers at random knows no wrong label; read accuracy_forget, which counts true labels.
        source: Goel et al., "Corrective machine unlearning", TMLR 2024, arXiv 2402.14015 (accuracy on the manipulated,
            with true labels, and on test).
    """
    if tables.taught is None or (tables.taught == tables.original.label).all():
        return {name: missing(NO_WRONG_LABELS) for name in NAMES}
    scores, subsets = tables.of(model), tables.subsets()
    wrong = subsets["forget"] & (tables.taught != scores.label)
    test = subsets["test"]
    right, before = ((each.predicted == each.label)[test].astype(np.float64) for each in (scores, tables.original))
    return {
        "wrong_label_forget": share((scores.predicted == tables.taught)[wrong]),
        "accuracy_returned_test": mean(right - before, least=-1.0),
    }
