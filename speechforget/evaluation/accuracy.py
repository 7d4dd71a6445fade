"""Accuracy and F1 per subset. Neither high nor low is better: the aim on every subset is the oracle's value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import NOTHING, Tables, Value, predictions


def accuracy(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the accuracy on each subset, over all K outputs.

    Explanation:
        values: accuracy_<subset>
        meaning: The share of utterances whose label the model predicts. Forget and retain are training utterances of
            the request and all others; validation, holdout and test hold remaining classes; validation_forgotten and
            test_forgotten hold the classes that a class request removes; nonmembers are holdout utterances that match
            the request.
        formula: mean of 1[argmax z = y] over all K outputs.
        unit: a share in [0, 1] with a 95 % Wilson interval.
        aim: the oracle's value on every subset. Forgetting samples must not lower it further: the oracle still knows
            the words.
        fooled by: a new head on unchanged features; it says little about samples, because oracle and original differ
            by a few points only.
        source: Golatkar et al., CVPR 2020 (against a retrained model).
    """
    right = tables.of(model).right
    return {f"accuracy_{name}": share(right[mask]) for name, mask in tables.subsets().items()}


def accuracy_masked(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the accuracy on subsets of remaining classes when the model may predict remaining classes only.

    Explanation:
        values: accuracy_masked_retain, accuracy_masked_validation, accuracy_masked_test
        meaning: It separates two effects of a class request: other classes are taken for the forgotten one, or they
            are damaged. For sample requests it equals the accuracy.
        formula: mean of 1[argmax of z over remaining classes = y].
        unit: a share in [0, 1] with a 95 % Wilson interval.
        aim: the oracle's value.
        fooled by: nothing beyond what fools the accuracy.
        source: Golatkar et al., CVPR 2020, for the unmasked one.
    """
    scores = tables.of(model)
    predicted = predictions(scores.logits, tables.forgotten) if tables.forgotten else scores.predicted
    right = predicted == scores.label
    subsets = tables.subsets()
    return {f"accuracy_masked_{name}": share(right[subsets[name]]) for name in ("retain", "validation", "test")}


def macro_f1(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the mean F1 of the classes in each subset, over all K outputs.

    Explanation:
        values: macro_f1_<subset>
        meaning: Like the accuracy, but every class counts equally, and a class that the model predicts too often loses,
            too.
        formula: mean over the classes c that occur in the subset of 2 TP_c / (2 TP_c + FP_c + FN_c); answers outside
            these classes count as misses of the label alone.
        unit: a score in [0, 1]; no interval; `count` is utterances.
        aim: the oracle's value.
        fooled by: classes with few utterances, which weigh as much as others.
        source: Koudounas et al., Interspeech 2025 (UnSLU-BENCH), on test.
    """
    scores = tables.of(model)
    return {
        f"macro_f1_{subset}": _macro_f1(scores.label[mask], scores.predicted[mask], scores.logits.shape[1])
        for subset, mask in tables.subsets().items()
    }


def _macro_f1(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Value:
    if not len(label):
        return NOTHING
    hits = np.bincount(label[label == predicted], minlength=classes)
    support = np.bincount(label, minlength=classes)
    answers = np.bincount(predicted[predicted >= 0], minlength=classes)
    present = support > 0
    f1 = 2 * hits[present] / (support + answers)[present]
    return Value(float(f1.mean()), float("nan"), float("nan"), len(label))
