"""Single numbers that say how closely a model matches the oracle."""

from __future__ import annotations

import math

from speechforget.evaluation.accuracy import accuracy
from speechforget.evaluation.intervals import share
from speechforget.evaluation.membership import auc
from speechforget.evaluation.tables import Tables, Value

PARTS = ("accuracy_forget", "accuracy_retain", "accuracy_test")


def _gaps(tables: Tables, model: str) -> list[float]:
    """Return the absolute accuracy gaps to the oracle, in the order of `PARTS`; nan if either model has a nan logit.

    Test holds the remaining classes only.
    """
    if any((tables.of(name).predicted < 0).any() for name in (model, "oracle")):
        # Two models without predictions are equally wrong, which is not agreement.
        return [math.nan] * len(PARTS)
    ours, oracle = accuracy(tables, model), accuracy(tables, "oracle")
    return [abs(ours[name].value - oracle[name].value) for name in PARTS]


def _reason(gaps: list[float]) -> str:
    """Name the accuracies that are missing from a mean or product; empty if all are known."""
    unknown = [part for part, gap in zip(PARTS, gaps, strict=False) if math.isnan(gap)]
    return f"there is no value of {' and '.join(unknown)}" if unknown else ""


def churn(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `churn_<subset>` in [0, 1]: the share of utterances that model and oracle predict differently.

    Intervals are 95 % Wilson.
    """
    differs = tables.of(model).predicted != tables.oracle.predicted
    return {f"churn_{name}": share(differs[mask]) for name, mask in tables.subsets().items()}


def average_gap(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `average_gap` in [0, 1], 0 for the oracle: the mean absolute gap of three accuracies and the attack AUC.

    The accuracies are those on forget, retain and test (after Fan et al., SalUn, ICLR 2024). `count` is the number of
    gaps: 4, or 3 without non-members, where the AUC is not known. nan with a reason if an accuracy is not known, as for
    a corpus without a test subset.
    """
    gaps = _gaps(tables, model)
    attack = abs(auc(tables, model)["membership_auc"].value - auc(tables, "oracle")["membership_auc"].value)
    if not math.isnan(attack):
        gaps.append(attack)
    return {"average_gap": Value(math.fsum(gaps) / len(gaps), math.nan, math.nan, len(gaps), _reason(gaps))}


def tow(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `tow` in [0, 1], 1 for the oracle: the product of 1 - |accuracy gap| over forget, retain and test.

    Source: Zhao et al., RUM, NeurIPS 2024. `count` is the number of gaps, 3. nan with a reason as for `average_gap`.
    """
    gaps = _gaps(tables, model)
    return {"tow": Value(math.prod(1 - gap for gap in gaps), math.nan, math.nan, len(gaps), _reason(gaps))}
