"""Accuracies, intervals, divergences and agreement against closed forms and other implementations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.score_tables import make_scores, make_tables

from speechforget.evaluation import accuracy, agreement, divergence, membership
from speechforget.evaluation.intervals import mean, share, wilson
from speechforget.evaluation.tables import Tables, predictions
from speechforget.evaluation.zrf import zrf

logits = arrays.arrays(np.float64, (4, 5), elements=st.floats(-1e4, 1e4))


def test_accuracy_and_macro_f1_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score

    tables = make_tables("class")
    scores, mask = tables.unlearned, tables.subsets()["test"]
    label, predicted = scores.label[mask], scores.logits[mask].argmax(1)
    assert 1 not in label and 1 in tables.original.label
    values = {**accuracy.accuracy(tables, "unlearned"), **accuracy.macro_f1(tables, "unlearned")}
    assert values["accuracy_test"].value == pytest.approx(accuracy_score(label, predicted), abs=1e-15)
    assert values["macro_f1_test"].value == pytest.approx(
        f1_score(label, predicted, labels=np.unique(label), average="macro"), abs=1e-15
    )
    assert values["accuracy_test"].low < values["accuracy_test"].value < values["accuracy_test"].high
    assert values["accuracy_test"].count == mask.sum()


def test_subsets_of_a_class_request_split_remaining_from_forgotten():
    subsets = make_tables("class").subsets()
    label = make_tables("class").original.label
    assert np.all(label[subsets["test"]] != 1) and np.all(label[subsets["test_forgotten"]] == 1)
    assert np.all(label[subsets["validation"]] != 1) and np.all(label[subsets["validation_forgotten"]] == 1)
    assert np.all(label[subsets["nonmembers"]] == 1)
    assert not make_tables("sample").subsets()["test_forgotten"].any()


def test_masked_accuracy_chooses_among_remaining_classes_only():
    role, label = ["test"] * 3 + ["retain", "forget"], [0, 2, 2, 0, 1]
    logits = [[1, 5, 0], [0, 5, 1], [1, 5, 0], [3, 0, 0], [0, 1, 0]]
    scores = make_scores(role, label, logits)
    tables = Tables(scores, (scores,), scores, (1,), 0)
    assert accuracy.accuracy(tables, "oracle")["accuracy_test"].value == 0
    assert accuracy.accuracy_masked(tables, "oracle")["accuracy_masked_test"].value == pytest.approx(2 / 3)


def test_a_logit_that_is_no_number_is_never_right():
    assert predictions(np.array([[np.nan, 1], [0, 1], [np.inf, 0]])).tolist() == [-1, 1, 0]


def test_wilson_interval_matches_a_published_value_and_the_ends():
    low, high = wilson(0.1, 10)
    assert (low, high) == (pytest.approx(0.01788, abs=1e-4), pytest.approx(0.40415, abs=1e-4))
    assert share(np.ones(20, dtype=bool))[:3] == (1.0, pytest.approx(0.8389, abs=1e-4), 1.0)
    assert share(np.array([], dtype=bool)).count == 0
    assert math.isnan(mean(np.array([2.0])).low)


def test_divergences_closed_forms():
    even, tilted = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert divergence.kullback_leibler(even, tilted)[0] == pytest.approx(0.5 * math.log(4 / 3), abs=1e-15)
    assert divergence.kullback_leibler(tilted, even)[0] == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-15
    )
    certain, opposite = np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]])
    assert divergence.jensen_shannon(certain, opposite)[0] == pytest.approx(math.log(2), abs=1e-12)
    assert divergence.kullback_leibler(certain, opposite)[0] == pytest.approx(20 * math.log(10), abs=1e-9)
    assert divergence.probability_distance(certain, opposite)[0] == pytest.approx(math.sqrt(2))


@given(logits, logits, st.floats(-1e3, 1e3))
@settings(max_examples=80, deadline=None)
def test_divergences_bounds_symmetry_and_shift(first, second, shift):
    kl, js = divergence.kullback_leibler(first, second), divergence.jensen_shannon(first, second)
    assert np.all(np.isfinite(kl)) and np.all(kl >= 0) and np.all(js >= 0) and np.all(js <= math.log(2) + 1e-12)
    assert divergence.jensen_shannon(second, first) == pytest.approx(js, abs=1e-12)
    assert divergence.jensen_shannon(first, second + shift) == pytest.approx(js, abs=1e-9)
    assert np.all(divergence.kullback_leibler(first, first) == 0)


def test_tow_average_gap_and_churn_closed_forms():
    role = ["forget"] * 4 + ["retain"] * 4 + ["test"] * 4 + ["holdout"] * 4
    label = np.zeros(16, dtype=np.int64)

    def answers(right):
        return make_scores(role, label, np.where(np.asarray(right)[:, None] > 0, [[1.0, 0.0]], [[0.0, 1.0]]))

    oracle = answers([1, 0, 0, 0] + [1] * 4 + [1, 1, 0, 0] + [1, 1, 0, 0])
    unlearned = answers([*[1, 1, 1, 0] * 2, *[1, 1, 0, 0] * 2])
    tables = Tables(oracle, (oracle,), unlearned, (), 0)
    assert agreement.tow(tables, "unlearned")["tow"].value == pytest.approx(0.5 * 0.75 * 1.0)
    assert agreement.tow(tables, "original")["tow"].value == 1
    auc_gap = abs(
        membership.auc(tables, "unlearned")["membership_auc"].value
        - membership.auc(tables, "oracle")["membership_auc"].value
    )
    assert auc_gap == pytest.approx(0.25)
    assert agreement.average_gap(tables, "unlearned")["average_gap"].value == pytest.approx((0.5 + 0.25 + 0 + 0.25) / 4)
    kept = np.asarray(role) != "test"
    oracle, unlearned = (
        make_scores(np.asarray(role)[kept], label[kept], one.logits[kept]) for one in (oracle, unlearned)
    )
    untested = Tables(oracle, (oracle,), unlearned, (), 0)
    for name, found in {**agreement.tow(untested, "unlearned"), **agreement.average_gap(untested, "unlearned")}.items():
        assert math.isnan(found.value) and found.reason == "there is no value of accuracy_test", name
    churn = agreement.churn(tables, "unlearned")
    assert [churn[f"churn_{name}"].value for name in ("forget", "retain", "test")] == [0.5, 0.25, 0]


def test_two_models_without_numbers_are_not_alike():
    tables = make_tables("class")
    ruined = replace(tables.unlearned, logits=np.full_like(tables.unlearned.logits, np.nan))
    found = replace(tables, oracles=(ruined,), unlearned=ruined)
    assert math.isnan(agreement.average_gap(found, "unlearned")["average_gap"].value) and math.isnan(
        agreement.tow(found, "unlearned")["tow"].value
    )


def test_tables_refuse_what_is_not_aligned():
    tables = make_tables()
    with pytest.raises(ValueError, match="same utterances"):
        replace(tables, unlearned=replace(tables.unlearned, label=tables.unlearned.label[::-1].copy()))
    with pytest.raises(ValueError, match="unknown roles"):
        replace(tables.oracle, role=np.full(len(tables.oracle.role), "train"))
    with pytest.raises(ValueError, match="holdout utterances"):
        replace(tables.oracle, nonmember=np.ones(len(tables.oracle.role), dtype=bool))


def test_zrf_has_closed_forms() -> None:
    """1 for the answers of the random model itself, 1 - log 2 for others that share no class; several are averaged."""
    sure = 1e3 * np.eye(3)
    scores = make_scores(["forget"] * 3 + ["retain"], [0, 1, 2, 0], np.concatenate([sure, sure[:1]]))
    tables = Tables(scores, (scores,), scores, (), 0, untrained=np.stack([sure]))
    assert zrf(tables, "unlearned")["zrf_forget"].value == pytest.approx(1.0)
    opposite = np.roll(sure, 1, axis=0)
    found = zrf(replace(tables, untrained=np.stack([opposite])), "oracle")["zrf_forget"]
    assert found.value == pytest.approx(1 - math.log(2)) and found.count == 3
    both = zrf(replace(tables, untrained=np.stack([sure, opposite])), "original")["zrf_forget"]
    assert both.value == pytest.approx(1 - math.log(2) / 2)
    with pytest.raises(ValueError, match="random weights"):
        replace(tables, untrained=np.stack([sure[:2]]))


def test_zrf_without_random_models_or_utterances_has_a_reason() -> None:
    tables = make_tables()
    assert zrf(replace(tables, untrained=None), "oracle")["zrf_forget"].reason
    empty = make_tables(roles=("retain", "holdout", "test"))
    assert zrf(empty, "oracle")["zrf_forget"].reason
