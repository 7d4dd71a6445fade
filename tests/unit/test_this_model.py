"""Metrics of one unlearned model beside K oracles: sides, ranks, reasons, and an oracle in its place."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.audits import with_margin
from support.score_tables import make_scores

from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import NoOracle, Tables
from speechforget.evaluation.this_model import (
    completeness_forget,
    equivalence_test,
    exposure_forget,
    relative_test,
    told_from_oracles,
)

METRICS = (relative_test, equivalence_test, completeness_forget, exposure_forget, told_from_oracles)


def tables(seed=0, shift=0.0, each=0.0, oracles=4, forget=80, unheard=60):
    """Margins of forget: of the original 2 above, of the unlearned model shifted; retain fills the table."""
    generator = np.random.default_rng(seed)
    role = np.array(["forget"] * forget + ["retain"] * 20 + ["validation"] * unheard)
    label = generator.integers(0, 5, len(role))
    hardness, known = generator.normal(3, 2, len(role)), role == "forget"

    def model(added):
        margins = hardness + generator.normal(size=len(role)) + known * added
        return make_scores(role, label, with_margin(margins, label, 5, generator))

    added = shift + each * generator.normal(size=len(role))
    return Tables(model(2.0), tuple(model(0.0) for _ in range(oracles)), model(added), (), 0)


def values(found, model="unlearned"):
    return {name: value for metric in METRICS for name, value in metric(found, model).items()}


def test_a_model_that_forgot_nothing_is_told() -> None:
    found = values(tables(shift=2.0))
    assert found["relative_test"].value > 0 and found["relative_test_p"].value < 0.05
    assert found["equivalence_p"].value == found["told_from_oracles_p"].value == 1 / 5
    assert found["told_from_oracles"].value > 0.6
    oracle = values(tables(), "oracle")
    assert found["completeness_forget"].value < oracle["completeness_forget"].value - 0.2
    assert found["completeness_forget"].low < found["completeness_forget"].value < found["completeness_forget"].high


def test_over_forgetting_passes_the_relative_test_only() -> None:
    found = values(tables(shift=-5.0))
    assert found["relative_test"].value < 0 and found["relative_test_p"].value > 0.5
    assert found["equivalence_p"].value == 1 / 5 and found["told_from_oracles"].value > 0.8
    assert found["completeness_forget"].value > values(tables(), "oracle")["completeness_forget"].value


def test_single_utterances_that_moved_are_told() -> None:
    """Averages agree, so that completeness is near an oracle's, but each margin is far from where oracles have it."""
    assert values(tables(each=4.0))["told_from_oracles"].value > 0.7


def test_an_oracle_in_the_models_place_is_not_compared_with_itself() -> None:
    several = tables()
    by_place = [values(replace(several, unlearned=oracle)) for oracle in several.oracles]
    assert by_place[0] == values(several, "oracle")
    assert len({found["told_from_oracles"].value for found in by_place}) == 4
    assert all(0.3 < found["told_from_oracles"].value < 0.7 for found in by_place)
    assert all(found["told_from_oracles"].count == 3 for found in by_place)


def test_an_oracle_is_told_as_often_as_chance() -> None:
    found = [values(tables(seed)) for seed in range(40)]
    assert np.mean([each["told_from_oracles"].value for each in found]) == pytest.approx(0.5, abs=0.03)
    ranks = [each["told_from_oracles_p"].value for each in found]
    assert np.mean(np.array(ranks) <= 0.2) == pytest.approx(0.2, abs=0.2)


def test_exposure_is_what_forget_has_more_than_validation() -> None:
    """In nats, by exact margins: the oracles' mean is taken away, and what all utterances share."""
    role = np.array(["forget"] * 12 + ["validation"] * 15)
    label, base = np.zeros(len(role), dtype=int), np.linspace(-2, 3, len(role))

    def model(of_forget: float, of_all: float):
        generator = np.random.default_rng(0)
        margins = base + of_all + of_forget * (role == "forget")
        return make_scores(role, label, with_margin(margins, label, 5, generator))

    oracles = tuple(model(each, 7 * each) for each in (-0.3, 0.0, 0.3))
    found = Tables(model(2.0, 0.5), oracles, model(1.5, -4.0), (), 0)
    told = exposure_forget(found, "unlearned")["exposure_forget"]
    assert told[:4] == pytest.approx((1.5, 1.5, 1.5, 12), abs=1e-5)
    assert exposure_forget(found, "original")["exposure_forget"].value == pytest.approx(2.0)
    assert exposure_forget(found, "oracle")["exposure_forget"].value == pytest.approx(-0.45)
    assert exposure_forget(tables(unheard=4), "unlearned")["exposure_forget"].reason.startswith("validation has fewer")


def test_exposure_sees_memory_and_over_forgetting_alike() -> None:
    found = {shift: values(tables(shift=shift, oracles=8))["exposure_forget"] for shift in (2.0, 0.0, -2.0)}
    assert found[2.0].value > 1.5 and abs(found[0.0].value) < 0.6 and found[-2.0].value < -1.5
    assert found[2.0].low < found[2.0].value < found[2.0].high


def test_missing_numbers_have_a_reason() -> None:
    for value in values(tables(oracles=1)).values():
        assert math.isnan(value.value) and value.reason == "fewer than 3 oracles: raise evaluation.oracles"
    for value in values(tables(forget=4)).values():
        assert value.reason == "fewer than 10 utterances are to be forgotten"
    for metric in METRICS:
        with pytest.raises(NoOracle):
            metric(tables(oracles=0), "unlearned")


def test_a_comparison_lists_them_with_a_spread() -> None:
    paths = [f"speechforget.evaluation.this_model.{metric.__name__}" for metric in METRICS]
    found = compare(tables(oracles=4), paths)
    names = ("relative_test", "equivalence_distance", "completeness_forget", "exposure_forget", "told_from_oracles")
    for name in names:
        entry = found["unlearned"][name]
        assert entry["oracle_spread"] > 0 and entry["gap"] == entry["value"] - found["oracle"][name]["value"]
    one = compare(tables(oracles=1), paths)["unlearned"]["told_from_oracles"]
    assert one["value"] is None and "fewer than 3 oracles" in one["reason"]
