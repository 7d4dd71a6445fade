"""Interclass confusion (Goel et al., "Towards adversarial evaluations for inexact machine unlearning", 2022)."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Tables, Value


def confusion(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `confusion_<subset>` in [0, 1]: the share of two classes' utterances that get the other one's label.

    The two classes are those with exchanged labels (`dataset.confused`). An utterance counts by its true label; in
    forget, all utterances were trained with the other one's. Has 95 % Wilson intervals. The aim is the oracle's value:
    what is confused by nature. Empty for a corpus in which no labels were exchanged.
    """
    if not tables.confused:
        return {}
    first, second = tables.confused
    scores = tables.of(model)
    other = np.where(scores.label == first, second, first)
    pair = np.isin(scores.label, tables.confused)
    subsets = tables.subsets()
    return {
        f"confusion_{name}": share((scores.predicted == other)[subsets[name] & pair])
        for name in ("forget", "retain", "validation", "test")
    }
