"""Tests and bands of one model beside K oracles hold their level: a further oracle is told in 5 % of draws."""

from dataclasses import replace

import numpy as np
import pytest
from support.audits import with_margin
from support.score_tables import make_scores

from speechforget.evaluation.compare import compare
from speechforget.evaluation.evidence import ALIKE, judge
from speechforget.evaluation.tables import Tables
from speechforget.evaluation.this_model import equivalence_test, told_from_oracles

HERE = "speechforget.evaluation."
THIS_MODEL = ("equivalence_test", "completeness_forget", "exposure_forget", "told_from_oracles")
METRICS = [HERE + f"this_model.{name}" for name in THIS_MODEL] + [HERE + "accuracy.accuracy", HERE + "membership.auc"]
NAMES = (
    *("told_from_oracles", "equivalence_distance", "completeness_forget", "exposure_forget"),
    *("membership_auc", "accuracy_forget"),
)
FORGET, HOLDOUT, CLASSES = 30, 60, 5
# Oracles differ from each other as a whole (in nats), too: then utterances are no independent draws.
SHIFTS = (0.0, 0.5)


def oracles(seed: int, count: int, shift: float) -> Tables:
    """The unlearned model is one more oracle; the original has margins 3 nats higher on forget."""
    generator = np.random.default_rng(seed)
    role = np.array(["forget"] * FORGET + ["retain"] * 20 + ["holdout"] * HOLDOUT + ["validation"] * HOLDOUT)
    label = generator.integers(0, CLASSES, len(role))
    hardness = generator.normal(3, 2, len(role))

    def model(added: float):
        own = generator.normal(size=len(role)) + shift * generator.normal()
        margins = hardness + own + (role == "forget") * added
        return make_scores(role, label, with_margin(margins, label, CLASSES, generator))

    return Tables(model(3.0), tuple(model(0.0) for _ in range(count)), model(0.0), (), seed)


def outside(count: int, draws: int, shift: float) -> dict[str, float]:
    """The share of draws in which a further oracle lies outside each band, and in which any of them tells it."""
    told = dict.fromkeys((*NAMES, "any"), 0)
    for seed in range(draws):
        comparison = compare(oracles(seed, count, shift), METRICS)
        for name in NAMES:
            told[name] += any(each.side != ALIKE for each in judge(comparison, [name]))
        told["any"] += any(each.side != ALIKE for each in judge(comparison, NAMES))
    return {name: number / draws for name, number in told.items()}


@pytest.mark.nightly
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_further_oracle_lies_in_each_band_as_often_as_they_say(count: int, shift: float) -> None:
    """At most 6.5 %; less where numbers take few values (accuracy) or their spread counts twice (told_from_oracles)."""
    rates = outside(count, 2000, shift)
    print("\n", count, shift, rates)  # pytest -s
    assert max(rates.values()) <= 0.065


@pytest.mark.slow
def test_a_further_oracle_lies_in_each_band_mostly() -> None:
    """Within four standard errors of 5 % in 150 draws."""
    assert max(outside(3, 150, 0.5).values()) <= 0.122


def of_a_class(seed: int, count: int) -> Tables:
    """Oracles that answer to a forgotten class each with a bias of its own among nine other classes."""
    generator = np.random.default_rng(seed)
    usual = generator.normal(0, 2, 10)

    def model():
        logits = usual + generator.normal(size=10) + 0.5 * generator.normal(size=(20, 10))
        return make_scores(["forget"] * 20, np.zeros(20, dtype=int), logits)

    return Tables(model(), tuple(model() for _ in range(count)), model(), (0,), seed)


@pytest.mark.parametrize("count", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_where_a_forgotten_class_goes_is_told_as_seldom_as_they_say(count: int) -> None:
    """Distances between oracles share the oracles, so their own spread gave 8 % and more."""
    told = 0
    for seed in range(400):
        comparison = compare(of_a_class(seed, count), [HERE + "neighbours.neighbour_divergence"])
        told += judge(comparison, ["neighbour_js"])[0].side != ALIKE
    assert told <= 0.065 * 400


def ranks(draws: int, shift: float) -> dict[str, float]:
    """How often one of 20 models, all oracles, is told from the others at 5 %."""
    found = {"told_from_oracles_p": 0, "equivalence_p": 0}
    for seed in range(draws):
        tables = oracles(seed, 19, shift)
        values = told_from_oracles(tables, "unlearned") | equivalence_test(tables, "unlearned")
        for name in found:
            found[name] += values[name].value <= 0.05
    return {name: number / draws for name, number in found.items()}


@pytest.mark.nightly
def test_ranks_among_models_hold_their_level() -> None:
    rates = ranks(2000, 0.5)
    print("\n", rates)
    assert all(0.035 <= rate <= 0.065 for rate in rates.values())


def test_a_model_that_differs_is_outside() -> None:
    """The checks above can fail: the original is told in most draws."""
    told = 0
    for seed in range(10):
        tables = oracles(seed, 3, 0.0)
        comparison = compare(replace(tables, unlearned=tables.original), METRICS)
        told += any(each.side != ALIKE for each in judge(comparison, NAMES))
    assert told >= 8
