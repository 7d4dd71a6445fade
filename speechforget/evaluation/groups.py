"""The worst classes and speakers: a mean over a subset hides that one speaker pays for all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.divergence import Rows, distances
from speechforget.evaluation.tables import NOTHING, Mask, Tables, Value, missing

WORST = 0.05  # share of the groups
FEWEST = 5  # utterances of a group: below, its mean is noise
SUBSETS = ("retain", "test")  # the utterances of others, which must not be harmed


def worst(numbers: Rows, groups: NDArray[np.str_], kind: str, largest: bool) -> Value:
    """Average a number over the worst 5 % of the groups, at least one, and name them with their means.

    numbers: one per utterance. groups: the name of each utterance's group, "" where unknown. largest: whether large
    numbers are bad. Every chosen group counts equally. `count` is the number of utterances in them. There is no
    interval, because the groups are chosen by the same numbers. Only groups that are worse than the mean group have a
    name: where all are equal, none is the worst.
    """
    if not len(numbers):
        return NOTHING
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(codes, numbers) / sizes
    known = np.flatnonzero((names != "") & (sizes >= FEWEST))
    if not len(known):
        return missing(f"no {kind} has {FEWEST} utterances here")
    badness = means if largest else -means
    chosen = known[np.argsort(-badness[known], kind="stable")][: math.ceil(WORST * len(known))]
    worse = chosen[badness[chosen] > badness[known].mean() + 1e-12]
    named = tuple(f"{names[group]}: {means[group]:.3f}" for group in worse)
    return Value(float(means[chosen].mean()), math.nan, math.nan, int(sizes[chosen].sum()), named=named)


def _groups(tables: Tables) -> dict[str, NDArray[np.str_] | None]:
    label = tables.original.label
    names = np.array(tables.classes or [f"class {number}" for number in range(tables.original.logits.shape[1])])
    return {"class": names[label], "speaker": tables.speaker}


def _each(tables: Tables) -> Iterator[tuple[str, str, NDArray[np.str_] | None, Mask]]:
    """Yield kind of group, end of a value's name, groups and subset."""
    subsets = tables.subsets()
    for kind, groups in _groups(tables).items():
        for subset in SUBSETS:
            plural = {"class": "classes", "speaker": "speakers"}[kind]
            yield kind, f"worst_{plural}_{subset}", groups, subsets[subset]


def _worst_of(tables: Tables, measures: dict[str, tuple[Rows, bool]]) -> dict[str, Value]:
    found = {}
    for kind, end, groups, mask in _each(tables):
        for name, (numbers, largest) in measures.items():
            found[f"{name}_{end}"] = (
                missing("the corpus names no speakers")
                if groups is None
                else worst(numbers[mask], groups[mask], kind, largest)
            )
    return found


def per_group(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the accuracy of the worst 5 % of classes and of speakers, on retain and on test.

    Explanation:
        values: accuracy_worst_classes_<subset>, accuracy_worst_speakers_<subset>
        meaning: The accuracy for the classes and the speakers that the model serves worst; `named` in result.json says
            who they are. A method can keep the mean and still ruin one speaker, or the neighbours of a forgotten word.
        formula: mean over the worst ceil(0.05 G) of G groups of (right answers / utterances); groups with fewer than 5
            utterances are left out.
        unit: a share in [0, 1]; no interval, because the groups are chosen by the same numbers.
        aim: the oracle's value: its own worst groups show how low the worst of so many lie by chance.
        fooled by: few utterances for each group, which make the worst look worse; harm to groups above the worst 5 %.
        source: Sagawa et al., ICLR 2020 (worst groups).
    """
    scores = tables.of(model)
    return _worst_of(tables, {"accuracy": ((scores.predicted == scores.label).astype(np.float64), False)})


def per_group_distance(tables: Tables, model: str) -> dict[str, Value]:
    """Compute churn, KL and JS to the oracle for the worst 5 % of classes and of speakers, on retain and on test.

    Explanation:
        values: churn_worst_classes_<subset>, churn_worst_speakers_<subset>, kl_worst_classes_<subset>,
            kl_worst_speakers_<subset>, js_worst_classes_<subset>, js_worst_speakers_<subset>
        meaning: For which classes and speakers the model differs most from the oracle; `named` in result.json says who
            they are. Churn is the share of utterances that the two predict differently.
        formula: mean over the worst ceil(0.05 G) of G groups of the group's mean; groups with fewer than 5 utterances
            are left out.
        unit: a share for churn, nats for KL and JS; no interval.
        aim: the value of another oracle in the model's place (null_low to null_high).
        fooled by: few utterances for each group; differences between any two trainings.
        source: Milani Fard et al., NeurIPS 2016 (churn); Sagawa et al., ICLR 2020 (worst groups).
    """
    found = distances(tables, model)
    churn = (tables.of(model).predicted != tables.oracle.predicted).astype(np.float64)
    return _worst_of(tables, {"churn": (churn, True), "kl": (found["kl"], True), "js": (found["js"], True)})
