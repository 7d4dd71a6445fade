"""How much a model behaves like the oracle, in single numbers."""

from __future__ import annotations

import math

from speechforget.evaluation.accuracy import accuracy
from speechforget.evaluation.intervals import share
from speechforget.evaluation.membership import auc
from speechforget.evaluation.tables import Tables, Value

PARTS = ("accuracy_forget", "accuracy_retain", "accuracy_test")


def _gaps(tables: Tables, model: str) -> list[float]:
    """Absolute accuracy gaps to the oracle on forget, retain and test (remaining classes); nan where a logit of either is not a number."""
    if any((tables.of(name).predicted < 0).any() for name in (model, "oracle")):
        return [math.nan] * len(PARTS)  # two such models are equally wrong, which is no likeness
    ours, oracle = accuracy(tables, model), accuracy(tables, "oracle")
    return [abs(ours[name].value - oracle[name].value) for name in PARTS]


def _reason(gaps: list[float]) -> str:
    """Which accuracies the mean or product lacks; empty for none."""
    unknown = [part for part, gap in zip(PARTS, gaps, strict=False) if math.isnan(gap)]
    return f"there is no {' nor '.join(unknown)} of both models" if unknown else ""


def churn(tables: Tables, model: str) -> dict[str, Value]:
    """`churn_<subset>` in [0, 1]: the share of utterances that the model gives another class than the oracle does; 95 % Wilson intervals."""
    differs = tables.of(model).predicted != tables.oracle.predicted
    return {f"churn_{name}": share(differs[mask]) for name, mask in tables.subsets().items()}


def average_gap(tables: Tables, model: str) -> dict[str, Value]:
    """`average_gap` in [0, 1], 0 for the oracle: the mean absolute gap of the accuracies on forget, retain, test and of the membership AUC.

    Counts the gaps: 4, or 3 without non-members, where the AUC is not known (after Fan et al., SalUn, ICLR 2024). nan with the reason where an
    accuracy is not known, as for a corpus without a test subset.
    """
    gaps = _gaps(tables, model)
    attack = abs(auc(tables, model)["membership_auc"].value - auc(tables, "oracle")["membership_auc"].value)
    if not math.isnan(attack):
        gaps.append(attack)
    return {"average_gap": Value(math.fsum(gaps) / len(gaps), math.nan, math.nan, len(gaps), _reason(gaps))}


def tow(tables: Tables, model: str) -> dict[str, Value]:
    """`tow` in [0, 1], 1 for the oracle: the product of 1 - |accuracy gap| over forget, retain and test (Zhao et al., RUM, NeurIPS 2024).

    Counts the gaps, 3. nan with the reason as for `average_gap`.
    """
    gaps = _gaps(tables, model)
    return {"tow": Value(math.prod(1 - gap for gap in gaps), math.nan, math.nan, len(gaps), _reason(gaps))}
