"""Calibration, worst classes and speakers, neighbours of forgotten classes, and the metrics' own power."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.score_tables import WORDS, make_scores, make_tables

from speechforget import explain
from speechforget.data.groups import group_columns
from speechforget.errors import UserError
from speechforget.evaluation import calibration, groups, neighbours, power
from speechforget.evaluation.tables import NOTHING, Tables


def test_calibration_error_closed_forms():
    error = calibration.expected_calibration_error
    assert error(np.full(10, 0.8), np.repeat([1.0, 0.0], [8, 2])) == pytest.approx(0)
    assert error(np.full(10, 0.8), np.zeros(10)) == pytest.approx(0.8)
    assert error(np.ones(3), np.ones(3)) == 0
    # Two bins, which do not cancel although the means agree.
    assert error(np.array([0.9, 0.5]), np.array([0.0, 1.0])) == pytest.approx((0.9 + 0.5) / 2)
    # A bin includes its upper end: 9/15 and 0.55 share one, 0.61 is in the next.
    assert error(np.array([9 / 15, 0.55]), np.array([1.0, 0.0])) == pytest.approx(abs(1 - 9 / 15 - 0.55) / 2)
    assert error(np.array([0.61, 0.55]), np.array([1.0, 0.0])) == pytest.approx((0.39 + 0.55) / 2)


def test_calibration_of_subsets():
    found = calibration.calibration(make_tables("sample"), "unlearned")
    assert found["calibration_error_test"].value > 0 and found["calibration_error_test_forgotten"] == NOTHING


def test_the_worst_groups_are_named_and_averaged():
    names = np.repeat([f"g{number:02}" for number in range(40)], 10)
    right = np.ones(400)
    right[:6], right[10:14] = 0, 0  # g00 has 40 %, g01 60 %
    found = groups.worst(right, names, "class", largest=False)
    assert found.value == pytest.approx(0.5) and found.count == 20 and math.isnan(found.low)
    assert found.named == ("g00: 0.400", "g01: 0.600")
    assert groups.worst(1 - right, names, "class", largest=True).value == pytest.approx(0.5)
    assert groups.worst(np.ones(400), names, "class", largest=False).named == (), (
        "where all are equal, none is the worst"
    )


def test_small_and_unknown_groups_are_left_out():
    names = np.array(["few"] * 4 + [""] * 10 + ["many"] * 5)
    right = np.array([0.0] * 14 + [1.0] * 5)
    found = groups.worst(right, names, "speaker", largest=False)
    assert found.value == 1 and found.count == 5
    assert groups.worst(right[:14], names[:14], "speaker", largest=False).reason == "no speaker has 5 utterances here"
    assert groups.worst(right[:0], names[:0], "speaker", largest=False) is NOTHING


def test_groups_of_a_comparison():
    tables = make_tables("class", rows=2000)
    wrong = tables.unlearned.logits.copy()
    victim = tables.speaker == "speaker7"
    wrong[victim] = -wrong[victim]
    tables = replace(tables, unlearned=replace(tables.unlearned, logits=wrong))
    found = groups.per_group(tables, "unlearned") | groups.per_group_distance(tables, "unlearned")
    for name in ("accuracy", "churn", "kl", "js"):
        for subset in ("retain", "test"):
            value = found[f"{name}_worst_speakers_{subset}"]
            assert any(named.startswith("speaker7: ") for named in value.named), (name, subset)
    assert {name.split(":")[0] for name in found["accuracy_worst_classes_test"].named} <= set(WORDS)
    itself = groups.per_group_distance(tables, "oracle")
    assert all(value.value == pytest.approx(0, abs=1e-12) for value in itself.values())
    nameless = groups.per_group(replace(tables, speaker=None, classes=()), "unlearned")
    assert nameless["accuracy_worst_speakers_test"].reason == "the corpus names no speakers"
    assert nameless["accuracy_worst_classes_test"].named[0].startswith("class ")


def neighbour_tables(goes_to, forgotten=(0,)):
    """Class 0 of 4 is forgotten. The original takes it for 2 if not for 0; `goes_to`: what the unlearned model says."""
    role = np.repeat(["forget", "test", "retain"], 10)
    label = np.repeat([0, 0, 1], 10)
    logits = np.tile([9.0, 0.0, 3.0, 0.0], (30, 1))
    original = make_scores(role, label, logits)
    lost = np.full((30, 4), 0.0)
    lost[np.arange(30), goes_to] = 5.0
    return Tables(original, (original,), make_scores(role, label, lost), forgotten, 0, None, ("no", "yes", "go", "up"))


def test_leakage_to_the_neighbour():
    goes_to = np.array([2] * 6 + [3] * 4 + [2] * 10 + [1] * 10)
    found = neighbours.neighbour_share(neighbour_tables(goes_to), "unlearned")
    assert found["neighbour_share_forget"].value == pytest.approx(0.6)
    assert found["neighbour_share_test_forgotten"].value == 1
    assert found["neighbour_share_forget"].named == ("no: go",)
    original = neighbours.neighbour_share(neighbour_tables(goes_to), "original")
    assert original["neighbour_share_forget"].value == 0, "it still predicts the class"
    sample = neighbours.neighbour_share(neighbour_tables(goes_to, ()), "unlearned")
    assert sample["neighbour_share_forget"].reason == "a sample request removes no class"


def test_divergence_among_remaining_classes():
    tables = neighbour_tables(np.repeat([2, 2, 1], 10))
    assert neighbours.neighbour_divergence(tables, "oracle")["neighbour_js"].value == pytest.approx(0, abs=1e-12)
    denied = tables.oracle.logits - np.array([99.0, 0, 0, 0])  # it never says the class, and nothing else changes
    moved = replace(tables, unlearned=replace(tables.oracle, logits=denied))
    assert neighbours.neighbour_divergence(moved, "unlearned")["neighbour_js"].value == pytest.approx(0, abs=1e-12)
    near = neighbours.neighbour_divergence(tables, "unlearned")["neighbour_js"].value
    far = neighbours.neighbour_divergence(neighbour_tables(np.repeat([3, 3, 1], 10)), "unlearned")["neighbour_js"].value
    assert 0 < near < far <= math.log(2)


def test_a_metric_that_separates_is_worth_something():
    found = power.judge([{"m": value} for value in (5, 6, 7, 8)], [{"m": value} for value in (1, 2, 3, 4)])["m"]
    assert found.separation.value == 1 and found.false_alarms.value == 0 and not found.weak
    assert 0.5 < found.separation.low < 1
    reverse = power.judge([{"m": value} for value in (1, 2, 3, 4)], [{"m": value} for value in (5, 6, 7, 8)])["m"]
    assert reverse.separation.value == 0 and not reverse.weak, "smaller for models that know"
    tied = power.judge([{"m": 1.0}] * 4, [{"m": 1.0}] * 4)["m"]
    assert tied.separation.value == 0.5 and tied.weak and tied.false_alarms.value == 0


def test_power_without_enough_numbers_is_a_reason():
    few = power.judge([{"m": 1.0}] * 2, [{"m": 1.0}] * 3)["m"]
    assert few.weak and few.separation.reason == "it needs 3 models of each kind; there are 2 and 3"
    holes = power.judge([{"m": 1.0}] * 3, [{"m": 1.0}, {"m": None}, {}])["m"]
    assert holes.weak and holes.separation.reason == "2 of 6 models have no value"
    assert power.judge([], []) == {}


def test_false_alarms_on_exchangeable_oracles_are_about_five_percent():
    draw = np.random.default_rng(0)
    rates = [
        power.judge([{"m": 0.0}] * 3, [{"m": value} for value in draw.normal(size=8)])["m"].false_alarms.value
        for _ in range(300)
    ]
    assert 0.03 < np.mean(rates) < 0.07


def compared(rights, sizes, column="sex"):
    """Numbers of groups a, b, ... with so many right answers of so many."""
    names = np.repeat([chr(97 + number) for number in range(len(sizes))], sizes)
    right = np.concatenate([np.arange(size) < correct for correct, size in zip(rights, sizes, strict=True)])
    return groups.between(right, names, column)


def test_the_gap_between_groups_in_closed_form():
    found = compared([90, 80, 38], [100, 100, 40])
    assert found["gap"].value == pytest.approx(0.95 - 0.8) and found["gap"].count == 240
    assert math.isnan(found["gap"].low), "of three groups, two are chosen by the same numbers"
    assert found["gap"].named == ("b: 0.800 of 100", "a: 0.900 of 100", "c: 0.950 of 40")
    assert found["lowest"].value == pytest.approx(0.8) and found["lowest"].named == ("b: 0.800 of 100",)
    assert found["lowest"].count == 100


def test_two_groups_have_newcombes_interval():
    found = compared([56, 48], [70, 80])["gap"]  # his example: 56/70 - 48/80, interval 0.0524 to 0.3339
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    alike = compared([50, 50], [100, 100])["gap"]
    assert alike.value == alike.low == 0 and alike.high > 0.1


def test_small_and_unknown_groups_have_no_gap():
    names = np.array(["a"] * 30 + ["b"] * 19 + [""] * 50)
    right = np.arange(99) < 30
    found = groups.between(right, names, "accent")
    assert {value.reason for value in found.values()} == {"fewer than 2 values of accent have 20 utterances here"}
    assert set(groups.between(right[:0], names[:0], "accent").values()) == {NOTHING}
    many = compared(range(25, 50), [50] * 25)["gap"].named
    assert len(many) == 20 and many[0].startswith("a: 0.500") and many[-1].startswith("y: 0.980")


@given(share=st.floats(0, 1), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_the_gap_by_chance_is_the_mean_over_all_outcomes(share, sizes):
    mean = 0.0
    for rights in itertools.product(*(range(size + 1) for size in sizes)):
        chances = [
            math.comb(size, right) * share**right * (1 - share) ** (size - right)
            for right, size in zip(rights, sizes, strict=True)
        ]
        shares = [right / size for right, size in zip(rights, sizes, strict=True)]
        mean += math.prod(chances) * (max(shares) - min(shares))
    assert groups.gap_by_chance(share, np.array(sizes)) == pytest.approx(mean, abs=1e-9)


def test_groups_that_are_served_alike_have_the_gap_of_chance():
    draw = np.random.default_rng(0)
    sizes = np.array([50, 80, 200])
    drawn = draw.binomial(sizes, 0.9, (4000, 3)) / sizes
    assert np.mean(drawn.max(axis=1) - drawn.min(axis=1)) == pytest.approx(groups.gap_by_chance(0.9, sizes), rel=0.03)


def test_gaps_of_a_comparison_are_of_validation_and_test_in_each_model():
    tables = make_tables(rows=4000)
    sex = np.where(np.arange(4000) % 3 == 0, "female", "male")
    wrong = np.where((sex == "female")[:, None], -tables.unlearned.logits, tables.unlearned.logits)
    tables = replace(tables, unlearned=replace(tables.unlearned, logits=wrong), groups={"sex": sex})
    found = {model: groups.group_gap(tables, model) for model in ("original", "oracle", "unlearned")}
    assert set(found["oracle"]) == {
        f"accuracy_{kind}_sex_{subset}" for kind in ("gap", "gap_chance", "lowest") for subset in ("validation", "test")
    }
    for subset in ("validation", "test"):
        name = f"accuracy_gap_sex_{subset}"
        assert found["unlearned"][name].value > 0.5 > 0.15 > found["oracle"][name].value
        assert found["unlearned"][f"accuracy_lowest_sex_{subset}"].named[0].startswith("female: ")
        mask = tables.subsets()[subset] & (sex == "female")
        assert found["original"][name].named[0].endswith(f" of {mask.sum()}") or f" of {mask.sum()}" in str(
            found["original"][name].named
        )
    assert groups.group_gap(replace(tables, groups={}), "unlearned") == {}
    assert explain.find("accuracy_gap_sex_test").name == explain.find("accuracy_lowest_sex_test").name == "group_gap"
    with pytest.raises(ValueError, match="a column of groups"):
        replace(tables, groups={"sex": sex[:-1]})


PEOPLE = pd.DataFrame(
    {
        "id": [str(number) for number in range(60)],
        "sex": ["f", "m"] * 30,
        "accent": ["", "scottish"] * 30,
        "gender": [str(number) for number in range(60)],
        "speaker": [f"s{number % 30}" for number in range(60)],
        "first language": ["a", "b"] * 30,
    }
)


def test_columns_of_groups():
    assert group_columns(PEOPLE, "auto") == ("sex",), "one accent is no group, and 60 genders are none"
    assert group_columns(PEOPLE, ["speaker", "sex", "speaker"]) == ("speaker", "sex")
    assert group_columns(PEOPLE, []) == ()
    for column, words in {
        "sexx": "does not have: did you mean 'sex'",
        "subset": "does not have",
        "accent": r"has 1 value\(s\)",
        "first language": "rename the column",
    }.items():
        with pytest.raises(UserError, match=words):
            group_columns(PEOPLE, [column])
