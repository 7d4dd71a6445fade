"""Attacks by four scores, published attacks, GUM: closed forms, other implementations, coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.score_tables import make_scores, make_tables

from speechforget.evaluation import attack_features, attack_scores, gum, published_attacks
from speechforget.evaluation.divergence import distribution
from speechforget.evaluation.intervals import clopper_pearson
from speechforget.evaluation.tables import NOTHING, Tables

SCORES = ("loss", "confidence", "entropy", "modified_entropy")


def one_model(role, logits, seed=0):
    scores = make_scores(role, np.zeros(len(role), dtype=np.int64), logits)
    return Tables(scores, (scores,), scores, (), seed)


def apart(known, unknown, sizes=(40, 300, 300)):
    """Two classes, label 0: the margin of forget and retain is `known`, that of holdout is `unknown`."""
    role = np.repeat(["forget", "retain", "holdout"], sizes)
    noise = np.random.default_rng(0).normal(size=len(role))
    margin = np.where(role == "holdout", unknown, known) + noise
    return one_model(role, np.stack([margin, np.zeros(len(role))], axis=1))


def test_features_closed_forms():
    p = distribution(np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]))
    label = np.array([0, 1])
    assert attack_features.correctness(p, label).tolist() == [1, 0]
    assert attack_features.confidence(p, label) == pytest.approx([0.5, 0.5])
    assert attack_features.true_probability(p, label) == pytest.approx([0.5, 0.3])
    log = math.log
    assert attack_features.entropy(p, label) == pytest.approx([-0.5 * log(0.5) - 0.3 * log(0.3) - 0.2 * log(0.2)] * 2)
    expected = [
        -0.5 * log(0.5) - 0.3 * log(0.7) - 0.2 * log(0.8),
        -0.7 * log(0.3) - 0.5 * log(0.5) - 0.2 * log(0.8),
    ]
    assert attack_features.modified_entropy(p, label) == pytest.approx(expected)


def test_modified_entropy_keeps_its_digits_where_the_model_is_sure():
    """p_0 = 1 - e^-40: 1 - p_0 in float64 is 0, yet the two labels cost 0 and 80 nats."""
    p = distribution(np.array([[40.0, 0.0], [40.0, 0.0]]))
    sure, wrong = attack_features.modified_entropy(p, np.array([0, 1]))
    assert sure == pytest.approx(2 * 40.0 * 0 + 2 * math.exp(-80), abs=1e-16) and wrong == pytest.approx(80, rel=1e-12)


def test_clopper_pearson_agrees_with_scipy_and_the_ends():
    for hits, trials in ((0, 10), (3, 10), (10, 10), (1, 1)):
        expected = stats.binomtest(hits, trials).proportion_ci(0.95)
        assert clopper_pearson(hits, trials) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_true_positive_rate_closed_forms():
    nonmembers = np.arange(200.0)
    rate = attack_scores.true_positive_rate
    assert rate(np.array([-1.0, 0.0, 1.5, 2.0, 3.0]), nonmembers, 100)[0] == 3 / 5, (
        "two of 200 may lie below; ties miss"
    )
    assert rate(np.full(7, -1.0), nonmembers, 100)[:2] == (1.0, pytest.approx(0.025 ** (1 / 7)))
    assert rate(np.zeros(7), np.zeros(200), 100).value == 0, "all tied: an attack without a threshold"
    assert rate(np.zeros(0), nonmembers, 100) is NOTHING and rate(np.zeros(1), np.zeros(0), 100) is NOTHING
    few = rate(np.zeros(3), nonmembers, 1000)
    assert math.isnan(few.value) and few.reason.endswith("needs 1000 non-members; there are 200")


def test_a_random_attack_stays_inside_its_interval():
    inside, draws = 0, 200
    draw = np.random.default_rng(0)
    for _ in range(draws):
        # The threshold is fitted to 1000 non-members, so that the true rate is near 1 %.
        found = attack_scores.true_positive_rate(draw.normal(size=300), draw.normal(size=1000), 100)
        inside += found.low <= 0.01 <= found.high
    assert inside / draws > 0.93


def test_attacks_by_four_scores_on_separated_and_on_equal_models():
    perfect = attack_scores.attack_scores(apart(9.0, -9.0), "unlearned")
    # Confidence and entropy do not know the label: a surely wrong answer looks like a surely right one.
    for name in ("loss", "modified_entropy"):
        assert perfect[f"membership_auc_{name}"].value == 1 and perfect[f"membership_tpr_1_in_100_{name}"].value == 1
    for name in ("confidence", "entropy"):
        assert perfect[f"membership_auc_{name}"].low < 0.5 < perfect[f"membership_auc_{name}"].high
    surer = attack_scores.attack_scores(apart(9.0, 1.0), "unlearned")
    assert all(surer[f"membership_auc_{name}"].value > 0.99 for name in SCORES), "surer of what it knows"
    equal = attack_scores.attack_scores(apart(1.0, 1.0), "unlearned")
    for name in SCORES:
        assert equal[f"membership_auc_{name}"].low < 0.5 < equal[f"membership_auc_{name}"].high
        assert equal[f"membership_tpr_1_in_1000_{name}"].reason
    forgotten = attack_scores.attack_scores(apart(3.0, 0.0, (1, 300, 300)), "unlearned")
    assert all(forgotten[f"membership_auc_{name}"].count == 300 for name in SCORES)


def test_fitted_attacks_on_separated_and_on_equal_models():
    names = [f"svc_{name}" for name in (*published_attacks.FEATURES, "probabilities")]
    perfect = published_attacks.fitted_attacks(apart(9.0, -9.0), "unlearned")
    for name in names:
        if name != "svc_entropy":
            assert perfect[f"{name}_accuracy"].value == 1 and perfect[f"{name}_nonmember_share"].value == 0, name
    equal = published_attacks.fitted_attacks(apart(1.0, 1.0), "unlearned")
    for name in (*names, "logistic_entropy"):
        assert equal[f"{name}_nonmember_share"].reason.startswith("the attack is no better than guessing"), name
        assert equal[f"{name}_accuracy"].low < 0.5 < equal[f"{name}_accuracy"].high, name


def test_a_fitted_attack_judges_forget_by_what_it_learnt():
    role = np.repeat(["forget", "retain", "holdout"], [50, 200, 200])
    margin = np.where(role == "retain", 4.0, -4.0)
    margin[:20] = 4.0  # 20 of 50 look like training data
    found = published_attacks.fitted_attacks(one_model(role, np.stack([margin, 0 * margin], axis=1)), "unlearned")
    assert found["svc_confidence_nonmember_share"].value == pytest.approx(30 / 50)
    assert found["svc_confidence_nonmember_share"].count == 50


def test_the_logistic_attack_on_forget():
    separated = apart(9.0, -9.0)
    assert published_attacks.forget_attack(separated, "unlearned")["forget_attack_accuracy"].value == 1
    equal = published_attacks.forget_attack(apart(1.0, 1.0, (300, 300, 300)), "unlearned")["forget_attack_accuracy"]
    assert 0.4 < equal.value < 0.6 and equal.count == 600
    again = published_attacks.forget_attack(apart(1.0, 1.0, (300, 300, 300)), "unlearned")["forget_attack_accuracy"]
    assert again.value == equal.value
    few = published_attacks.forget_attack(apart(1.0, 1.0, (3, 300, 300)), "unlearned")["forget_attack_accuracy"]
    assert "there are 3" in few.reason


def test_gum_of_the_original_is_nothing_and_needs_an_attack_that_works():
    tables = make_tables(rows=3000)
    found = gum.gum(tables, "original")
    assert found["cgum"].value == pytest.approx(0, abs=1e-3) and found["cgum"].count > 400
    assert 0 < gum.gum(tables, "unlearned")["cgum"].value <= 1
    alike = replace(tables, original=replace(tables.oracle, seconds=10.0))
    assert "differ by less than their standard error" in gum.gum(alike, "unlearned")["cgum"].reason
    untimed = replace(tables, unlearned=replace(tables.unlearned, seconds=math.nan))
    assert "not known" in gum.gum(untimed, "unlearned")["gum"].reason


def test_cgum_of_a_perfect_method_is_one():
    assert gum.cgum_score((0.9, 0.9), (0.5, 0.5, 0.6), (0.0, 100.0), 10) == pytest.approx(1, abs=1e-5)
    assert gum.cgum_score((0.1, 0.9), (0.5, 0.5, 0.6), (0.0, 100.0), 10) == 0, "a destroyed model"
    assert math.isnan(gum.gum_score((0.9, 0.9), (0.5, 0.6, 0.5), (1.0, 100.0)))
