"""Accuracy and F1 per subset. Neither high nor low is better: the aim on every subset is the oracle's value."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import NOTHING, Tables, Value, predictions


def accuracy(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `accuracy_<subset>` in [0, 1] over all K outputs, with 95 % Wilson intervals; see `Tables.subsets`."""
    scores = tables.of(model)
    right = scores.predicted == scores.label
    return {f"accuracy_{name}": share(right[mask]) for name, mask in tables.subsets().items()}


def accuracy_masked(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `accuracy_masked_<subset>` in [0, 1] for subsets of remaining classes, predicting a remaining class only.

    It separates two effects of a class request: the class is no longer predicted, or other classes are damaged.
    For sample requests it equals `accuracy`.
    """
    scores = tables.of(model)
    predicted = predictions(scores.logits, tables.forgotten) if tables.forgotten else scores.predicted
    right = predicted == scores.label
    subsets = tables.subsets()
    return {f"accuracy_masked_{name}": share(right[subsets[name]]) for name in ("retain", "validation", "test")}


def macro_f1(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `macro_f1_test` in [0, 1]: the mean of F1 = 2 TP / (2 TP + FP + FN) over remaining classes in test.

    Uses the test utterances of remaining classes and all K outputs. Gives no interval; `count` is utterances.
    """
    scores = tables.of(model)
    mask = tables.subsets()["test"]
    label, predicted = scores.label[mask], scores.predicted[mask]
    if not len(label):
        return {"macro_f1_test": NOTHING}
    classes = scores.logits.shape[1]
    hits = np.bincount(label[label == predicted], minlength=classes)
    support = np.bincount(label, minlength=classes)
    answers = np.bincount(predicted[predicted >= 0], minlength=classes)
    present = support > 0
    f1 = 2 * hits[present] / (support + answers)[present]
    return {"macro_f1_test": Value(float(f1.mean()), float("nan"), float("nan"), len(label))}
