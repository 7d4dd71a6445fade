"""The worst classes and speakers, and gaps between groups of people: a mean hides who pays for all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.divergence import Rows, distances
from speechforget.evaluation.intervals import wilson
from speechforget.evaluation.tables import NOTHING, Mask, Tables, Value, missing

WORST = 0.05  # share of the groups
FEWEST = 5  # utterances of a group: below, its mean is noise
SUBSETS = ("retain", "test")  # the utterances of others, which must not be harmed
# Between groups: a share of fewer than 20 has a standard error above 6 points at 90 %. No training utterances, which
# models know by heart, whoever speaks.
FEWEST_COMPARED = 20
COMPARED = ("validation", "test")
KINDS = ("gap", "gap_chance", "lowest")
NAMED = 20  # groups that a number names


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


def group_gap(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the gap of accuracy between the groups of each column in `evaluation.groups`.

    Explanation:
        values: accuracy_gap_<column>_<subset>, accuracy_lowest_<column>_<subset>, accuracy_gap_chance_<column>_<subset>
        meaning: How much better the model serves one group (sex, accent) than another, before and after unlearning. The
            gap is the largest accuracy of a group minus the smallest; `named` in result.json has the accuracy and size
            of every group, from the lowest. Chance is the mean gap of groups of these sizes that are served alike.
        formula: max_g a_g - min_g a_g with a_g = right answers / utterances of group g; min_g a_g; the integral of
            1 - prod_g F_g(t) - prod_g (1 - F_g(t)), F_g the distribution of a binomial share of n_g with the common
            accuracy. Groups with fewer than 20 utterances, and utterances of unknown group, are left out.
        unit: shares in [0, 1]. Two groups have a 95 % interval (Newcombe); more have none, because the two are chosen
            by the same numbers.
        aim: the oracle's gap; a gap at the level of chance is none.
        fooled by: few speakers for each group, which make voices look like groups and intervals too narrow; groups that
            change places and keep the gap; a model that is bad for all.
        source: Newcombe, Statistics in Medicine 1998, method 10 (interval).
    """
    scores, subsets = tables.of(model), tables.subsets()
    right = scores.predicted == scores.label
    return {
        f"accuracy_{kind}_{column}_{subset}": value
        for column, groups in tables.groups.items()
        for subset in COMPARED
        for kind, value in between(right[subsets[subset]], groups[subsets[subset]], column).items()
    }


def between(right: Mask, groups: NDArray[np.str_], column: str) -> dict[str, Value]:
    """Compute the numbers of `group_gap` for one column and one subset: kind -> value."""
    if not len(right):
        return dict.fromkeys(KINDS, NOTHING)
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    known = np.flatnonzero((names != "") & (sizes >= FEWEST_COMPARED))
    if len(known) < 2:
        return dict.fromkeys(KINDS, missing(f"fewer than 2 values of {column} have {FEWEST_COMPARED} utterances here"))
    shares = np.bincount(codes, right) / sizes
    ordered = known[np.argsort(shares[known], kind="stable")]
    lowest, highest = ordered[0], ordered[-1]
    told = ordered if len(ordered) <= NAMED else np.concatenate([ordered[: NAMED // 2], ordered[-NAMED // 2 :]])
    named = tuple(f"{names[group]}: {shares[group]:.3f} of {sizes[group]}" for group in told)
    count, common = int(sizes[known].sum()), float(np.average(shares[known], weights=sizes[known]))
    two = [(float(shares[group]), int(sizes[group])) for group in (highest, lowest)]
    interval = newcombe(*two) if len(known) == 2 else (math.nan, math.nan)
    return {
        "gap": Value(float(shares[highest] - shares[lowest]), *interval, count, named=named),
        "gap_chance": Value(gap_by_chance(common, sizes[known]), math.nan, math.nan, count),
        "lowest": Value(float(shares[lowest]), math.nan, math.nan, int(sizes[lowest]), named=named[:1]),
    }


def newcombe(one: tuple[float, int], other: tuple[float, int]) -> tuple[float, float]:
    """Compute the 95 % interval of the size of the difference of two shares, from their Wilson intervals.

    one, other: share and number of trials, the larger share first (Newcombe, Statistics in Medicine 1998, method 10).
    """
    (low, high), (other_low, other_high) = wilson(*one), wilson(*other)
    difference = one[0] - other[0]
    lower = difference - math.hypot(one[0] - low, other_high - other[0])
    upper = difference + math.hypot(high - one[0], other[0] - other_low)
    return max(lower, 0.0), max(upper, -lower)


def gap_by_chance(share: float, sizes: NDArray[np.int64]) -> float:
    """Compute the mean of the largest minus the smallest of independent binomial shares with one probability.

    share: the probability. sizes: the number of trials of each. Exact: the integral of 1 - prod F - prod (1 - F).
    """
    from scipy.special import bdtr

    counts, times = np.unique(sizes, return_counts=True)
    steps = np.unique(np.concatenate([np.arange(count + 1) / count for count in counts]))
    below = np.ones(len(steps) - 1)
    above = np.ones(len(steps) - 1)
    for count, often in zip(counts, times, strict=True):
        reached = bdtr(np.floor(steps[:-1] * count + 1e-9), int(count), share)
        below, above = below * reached**often, above * (1 - reached) ** often
    return float(np.sum(np.diff(steps) * (1 - below - above)))
