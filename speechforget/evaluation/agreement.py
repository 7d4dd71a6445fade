"""Single numbers that say how closely a model matches the oracle."""

from __future__ import annotations

import math
from dataclasses import replace

from speechforget.evaluation.accuracy import accuracy
from speechforget.evaluation.intervals import share, student
from speechforget.evaluation.membership import auc
from speechforget.evaluation.tables import Tables, Value, beside_all, missing

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
    """Compute the share of utterances that model and oracle predict differently, for each subset.

    Explanation:
        values: churn_<subset>
        meaning: How many answers would change for users if the oracle were put in the model's place.
        formula: mean of 1[argmax z_model != argmax z_oracle].
        unit: a share in [0, 1] with a 95 % Wilson interval.
        aim: the value of another oracle in the model's place (null_low to null_high). Two trainings never agree on all.
        fooled by: differences between any two trainings; probabilities that move without changing an answer.
        source: Milani Fard et al., NeurIPS 2016.
    """
    differs = tables.of(model).predicted != tables.oracle.predicted
    return {f"churn_{name}": share(differs[mask]) for name, mask in tables.subsets().items()}


def average_gap(tables: Tables, model: str) -> dict[str, Value]:
    """Average the absolute gaps to the oracle of three accuracies and the attack AUC.

    `count` is the number of gaps: 4, or 3 without non-members, where the AUC is not known.

    Explanation:
        values: average_gap
        meaning: How far the model is from the oracle on average, in accuracy on forget, retain and test, and in the
            AUC of the loss attack. It is the headline of many papers.
        formula: (|gap forget| + |gap retain| + |gap test| + |gap AUC|) / 4; without non-members the first three / 3.
        unit: a share in [0, 1]; no interval.
        aim: 0, the oracle; the value of another oracle (null_low to null_high) shows what can be reached.
        fooled by: an attack too weak to find anything, which adds a gap of 0; gaps of very different weight.
        source: Fan et al., SalUn, ICLR 2024, with the AUC in place of their attack.
    """
    gaps = _gaps(tables, model)
    attack = abs(auc(tables, model)["membership_auc"].value - auc(tables, "oracle")["membership_auc"].value)
    if not math.isnan(attack):
        gaps.append(attack)
    return {"average_gap": Value(math.fsum(gaps) / len(gaps), math.nan, math.nan, len(gaps), _reason(gaps))}


def tow(tables: Tables, model: str) -> dict[str, Value]:
    """Multiply 1 - |accuracy gap to the oracle| over forget, retain and test ("tug of war").

    Explanation:
        values: tow
        meaning: Whether the model is near the oracle on forget, on retain and on test at once. One large gap spoils
            the product.
        formula: (1 - |gap forget|)(1 - |gap retain|)(1 - |gap test|), against the oracle of this seed.
        unit: none, in [0, 1]; no interval; `count` is the number of gaps.
        aim: 1, the oracle; the value of another oracle (null_low to null_high) shows what can be reached.
        fooled by: forget utterances that original and oracle know equally well: then doing nothing has a value near 1.
        source: Zhao et al., RUM, NeurIPS 2024.
    """
    gaps = _gaps(tables, model)
    return {"tow": Value(math.prod(1 - gap for gap in gaps), math.nan, math.nan, len(gaps), _reason(gaps))}


@beside_all
def tow_pairs(tables: Tables, model: str) -> dict[str, Value]:
    """Average `tow` over all oracles.

    Explanation:
        values: tow_pairs
        meaning: `tow` against each oracle in turn, and the mean: the number of one oracle varies with its seed. An
            oracle is compared with the others.
        formula: mean over oracles k of tow against oracle k.
        unit: none, in [0, 1]; 95 % Student interval over the oracles; `count` is their number.
        aim: as near to 1 as one oracle is to the others (null_low to null_high).
        fooled by: as tow.
        source: Zhao et al., RUM, NeurIPS 2024, who average over pairs of seeds.
    """
    scores, first = tables.of(model), tables.oracle
    others = [oracle for oracle in tables.oracles if oracle is not scores] or [first]
    found = [tow(replace(tables, unlearned=scores, oracles=(oracle,)), "unlearned")["tow"] for oracle in others]
    numbers = [one.value for one in found]
    if reason := next((one.reason for one in found if one.reason), ""):
        return {"tow_pairs": missing(reason)}
    interval = student(numbers) if len(numbers) > 1 else (math.nan, math.nan)
    return {"tow_pairs": Value(math.fsum(numbers) / len(numbers), *interval, len(numbers))}
