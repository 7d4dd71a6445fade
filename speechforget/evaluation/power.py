"""Judge the metrics themselves: does a metric tell models that know from models that do not?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from speechforget.evaluation.intervals import share, student
from speechforget.evaluation.membership import area_under_curve
from speechforget.evaluation.tables import Value, missing

Numbers = Mapping[str, float | None]

WEAK = 0.8  # a separation below it is too weak to judge with
FEWEST = 3  # models of each kind


class Judgement(NamedTuple):
    """Hold what a metric is worth.

    separation: AUC between models that know and models that do not, in [0, 1], with a 95 % interval. 1: the metric is
    larger for every model that knows; 0: smaller for every one; 0.5: it tells nothing. `count` is the number of models
    that do not know.

    false_alarms: share of the models that do not know whose value lies outside the 95 % prediction interval (Student)
    of the others, with a 95 % Wilson interval; about 0.05 is right.

    weak: whether the separation, in its better direction, is below `WEAK` or unknown.
    """

    separation: Value
    false_alarms: Value
    weak: bool


def judge(known: Sequence[Numbers], unknown: Sequence[Numbers]) -> dict[str, Judgement]:
    """Judge every metric by models that know and models that do not.

    known: the values of models that know (originals, unlearned by nothing), by name; None where there is none.
    unknown: those of oracles of other seeds. A metric that is relative to an oracle must be measured against an oracle
    that is in neither list.

    Explanation:
        values: separation, false_alarms
        meaning: What a metric is worth on this corpus. The separation says how often it is larger for a model that
            knows than for one that does not; 0 is as good as 1, and 0.5 tells nothing. False alarms are oracles that
            the other oracles call unusual. A metric with a separation between 0.2 and 0.8 is weak.
        formula: separation = P(value of a model that knows > value of an oracle) + ties / 2; false alarms = share of
            oracles outside mean +- t s sqrt(1 + 1 / n) of the n others, with t of 95 %.
        unit: shares in [0, 1]; 95 % intervals (DeLong and Wilson; Wilson).
        aim: a separation of 1 or 0, and false alarms of 0.05.
        fooled by: few models: with 8 of each kind, two thirds of useless metrics have a separation of 0.36 to 0.64, and
            4 % pass as not weak.
        source: faithfulness of OpenUnlearning, Dorna et al., 2025.
    """
    names = dict.fromkeys(name for values in (*known, *unknown) for name in values)
    return {name: _judge(_column(known, name), _column(unknown, name)) for name in names}


def _column(models: Sequence[Numbers], name: str) -> list[float]:
    """Return a metric of all models; nan where one has no number."""
    found = [values.get(name) for values in models]
    return [math.nan if value is None else float(value) for value in found]


def _judge(known: list[float], unknown: list[float]) -> Judgement:
    if min(len(known), len(unknown)) < FEWEST:
        nothing = missing(f"it needs {FEWEST} models of each kind; there are {len(known)} and {len(unknown)}")
        return Judgement(nothing, nothing, True)
    if lacking := sum(not math.isfinite(value) for value in (*known, *unknown)):
        nothing = missing(f"{lacking} of {len(known) + len(unknown)} models have no value")
        return Judgement(nothing, nothing, True)
    separation = area_under_curve(-np.array(known), -np.array(unknown), confidence=0.95)
    return Judgement(separation, _false_alarms(unknown), max(separation.value, 1 - separation.value) < WEAK)


def _false_alarms(values: list[float]) -> Value:
    outside = []
    for index, value in enumerate(values):
        others = values[:index] + values[index + 1 :]
        low, high = student(others, ahead=True)
        slack = 1e-9 * max(map(abs, values))  # rounding, where all are equal
        outside.append(not low - slack <= value <= high + slack)
    return share(np.array(outside))
