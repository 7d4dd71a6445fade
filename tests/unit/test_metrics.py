"""Metrics against closed forms, other implementations, and the one law of all: the oracle is at no distance from itself."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from omegaconf import OmegaConf
from scipy import stats

from speechforget.errors import UserError
from speechforget.evaluation import accuracy, agreement, divergence, membership
from speechforget.evaluation.compare import compare, objective, resolve
from speechforget.evaluation.flags import flags
from speechforget.evaluation.intervals import mean, share, wilson
from speechforget.evaluation.tables import NOTHING, NoOracle, Scores, Tables, predictions

METRICS = sorted((Path(__file__).parents[2] / "conf" / "metrics").glob("*.yaml"))
CLASSES = 6


def make_scores(role, label, logits, nonmember=None, seconds=1.0):
    role, label, logits = np.asarray(role), np.asarray(label), np.asarray(logits, dtype=np.float64)
    nonmember = role == "holdout" if nonmember is None else nonmember
    with np.errstate(all="ignore"):
        loss = -divergence.log_softmax(logits)[np.arange(len(label)), label]
    return Scores(role, nonmember, label, logits, loss, np.zeros((len(label), 2)), seconds)


def make_tables(
    kind="sample", seed=0, rows=600, oracles=1, roles=("forget", "retain", "validation", "holdout", "test")
):
    draw = np.random.default_rng(seed)
    role, label = draw.choice(roles, size=rows), draw.integers(0, CLASSES, rows)
    forgotten = (1,) if kind == "class" else ()
    if forgotten:
        training = np.isin(role, ["forget", "retain"])
        role = np.where(training, np.where(label == 1, "forget", "retain"), role)
    nonmember = (role == "holdout") & (np.isin(label, forgotten) if forgotten else True)

    def model(known, seconds):
        logits = draw.normal(size=(rows, CLASSES))
        logits[np.arange(rows), label] += np.where(np.isin(role, known), 5, 2)
        return make_scores(role, label, logits, nonmember, seconds)

    oracle_scores = tuple(model(["retain"], 9.0 + number) for number in range(oracles))
    return Tables(model(["forget", "retain"], 10.0), oracle_scores, model(["retain"], 2.0), forgotten, seed)


def test_every_metrics_config_composes_a_list():
    assert {path.stem for path in METRICS} >= {"paper", "default"}


@pytest.mark.parametrize("kind", ["sample", "class"])
@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_oracle_against_itself_has_gap_zero(path, kind):
    config = OmegaConf.load(path)
    assert config.name == path.stem
    tables = make_tables(kind)
    tables = replace(tables, unlearned=tables.oracle)
    result = compare(tables, config.metrics)
    for model in ("oracle", "unlearned"):
        for name, entry in result[model].items():
            assert entry["gap"] == 0 or (entry["gap"] is None and entry["value"] is None and entry["count"] == 0), name
    assert objective(result) == 0
    assert all(
        result["oracle"][f"{name}_forget"]["value"] == pytest.approx(0, abs=1e-12)
        for name in ("kl", "js", "churn")
        if path.stem != "paper"
    )


@pytest.mark.parametrize("kind", ["sample", "class"])
def test_another_model_than_the_oracle_has_a_gap(kind):
    result = compare(make_tables(kind), OmegaConf.load(METRICS[0]).metrics)
    moved = [name for name, entry in result["original"].items() if entry["gap"] not in (None, 0)]
    assert len(moved) > 10
    assert result["original"]["accuracy_forget"]["gap"] > 0


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_comparison_is_strict_json(path):
    result = compare(make_tables("class"), OmegaConf.load(path).metrics)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = {"value", "low", "high", "count", "gap", "oracle_spread"}
    assert all(names <= set(entry) <= names | {"reason"} for entry in result["unlearned"].values())


@pytest.mark.parametrize("model", ["original", "oracle", "unlearned"])
@pytest.mark.parametrize(("column", "number"), [("logits", np.nan), ("logits", np.inf), ("loss", np.nan)])
def test_a_model_without_numbers_is_refused_and_has_no_nice_value(model, column, number):
    tables = make_tables("class")
    values = getattr(tables.of(model), column).copy()
    values[:3] = number
    ruined = replace(tables.of(model), **{column: values})
    tables = replace(tables, **({"oracles": (ruined,)} if model == "oracle" else {model: ruined}))
    with pytest.raises(
        UserError, match=rf"The {model} model diverged: its scores of 3 of 600 utterances are not finite"
    ):
        compare(tables, ["speechforget.evaluation.accuracy.accuracy"])


def test_two_models_without_numbers_are_not_alike():
    tables = make_tables("class")
    ruined = replace(tables.unlearned, logits=np.full_like(tables.unlearned.logits, np.nan))
    found = replace(tables, oracles=(ruined,), unlearned=ruined)
    assert math.isnan(agreement.average_gap(found, "unlearned")["average_gap"].value) and math.isnan(
        agreement.tow(found, "unlearned")["tow"].value
    )


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


losses = arrays.arrays(
    np.float64, st.integers(1, 30), elements=st.floats(0, 50, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 2.0])
)


@given(losses, losses)
@settings(max_examples=200, deadline=None)
def test_auc_agrees_with_scikit_learn_and_lies_in_its_interval(members, nonmembers):
    from sklearn.metrics import roc_auc_score

    value = membership.area_under_curve(members, nonmembers)
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(nonmembers))])
    assert value.value == pytest.approx(roc_auc_score(truth, -np.concatenate([members, nonmembers])), abs=1e-12)
    assert 0 <= value.low <= value.value <= value.high <= 1
    assert value.low < value.high and value.count == len(nonmembers)
    other = membership.area_under_curve(nonmembers, members)
    assert other.value == pytest.approx(1 - value.value, abs=1e-12)


def test_auc_closed_forms():
    low, high = np.arange(10.0), np.arange(10.0) + 100
    assert membership.area_under_curve(low, high).value == 1
    assert membership.area_under_curve(high, low).value == 0
    assert membership.area_under_curve(low, low).value == 0.5
    assert membership.area_under_curve(np.array([1.0]), np.array([1.0, 2.0])).value == 0.75
    assert membership.area_under_curve(low, np.full(4, np.nan)).value == 1
    assert membership.area_under_curve(low, low[:0]) is NOTHING


def test_auc_variance_is_delongs():
    """Against the definition: covariances of the placements, written out as the double sum of Heaviside values."""
    draw = np.random.default_rng(1)
    members, nonmembers = draw.normal(size=40), draw.normal(size=55) + 0.4
    wins = (members[:, None] < nonmembers[None, :]) + 0.5 * (members[:, None] == nonmembers[None, :])
    value, variance = wins.mean(), wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 55
    expected = wilson(value, value * (1 - value) / variance, 0.99)
    assert membership.area_under_curve(members, nonmembers)[:3] == pytest.approx((value, *expected), abs=1e-12)


@pytest.mark.parametrize("sizes", [(30, 30), (40, 150)])
def test_interval_covers_one_half_under_the_null(sizes):
    draw = np.random.default_rng(7)
    trials = 1500
    covered = 0
    for _ in range(trials):
        value = membership.area_under_curve(draw.exponential(size=sizes[0]), draw.exponential(size=sizes[1]))
        covered += value.low <= 0.5 <= value.high
    assert 0.98 <= covered / trials <= 0.998


@given(losses, losses)
@settings(max_examples=200, deadline=None)
def test_threshold_is_the_best_of_all_cuts(members, nonmembers):
    threshold, reached = membership.best_threshold(members, nonmembers)

    def balanced(cut):
        return ((members <= cut).mean() + (nonmembers > cut).mean()) / 2

    assert balanced(threshold) == pytest.approx(reached, abs=1e-12)
    assert reached >= max(balanced(cut) for cut in [-np.inf, *members, *nonmembers]) - 1e-12
    assert reached >= 0.5


def attack_tables(loss_by_role, labels=None, seed=0):
    role = np.concatenate([np.full(len(values), name) for name, values in loss_by_role.items()])
    loss = np.concatenate([np.asarray(values, dtype=np.float64) for values in loss_by_role.values()])
    label = np.zeros(len(role), dtype=np.int64) if labels is None else np.asarray(labels)
    scores = Scores(role, role == "holdout", label, np.zeros((len(role), 3)), loss, np.zeros((len(role), 1)), 1.0)
    return Tables(scores, (scores,), scores, (), seed)


@given(losses, losses, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_threshold_of_counts_is_that_of_the_utterances(members, nonmembers, draw):
    distinct = np.unique(np.concatenate([members, nonmembers, [99.0]]))  # the last one is in no row
    rows = [[draw.choices(list(part), k=len(part)) for part in (members, nonmembers)] for _ in range(3)]
    counts = [
        np.stack([np.bincount(np.searchsorted(distinct, row[part]), minlength=len(distinct)) for row in rows])
        for part in (0, 1)
    ]
    cuts, reached = membership.best_cuts(distinct, *counts)
    for (kept, left), cut, right in zip(rows, cuts, reached, strict=True):
        assert membership.best_threshold(np.array(kept), np.array(left)) == (cut, right)


def test_papers_attack_on_separable_losses():
    tables = attack_tables(
        {
            "retain": np.linspace(0, 1, 50),
            "holdout": np.linspace(3, 4, 20),
            "forget": [0.1, 0.5, 3.5, 9.0],
            "test": [0.0],
        }
    )
    values = membership.loss_threshold(tables, "oracle")
    assert values["membership_nonmember_share"][0] == 0.5 and values["membership_nonmember_share"].count == 4
    assert values["membership_attack_accuracy"][0] == 1 and values["membership_attack_accuracy"].count == 40
    low, high = stats.beta(2.5, 2.5).ppf(
        [0.025, 0.975]
    )  # the threshold is beyond doubt, so only forget's own number is left
    assert values["membership_nonmember_share"][1:3] == pytest.approx((low, high), abs=0.03)


def test_papers_attack_never_looks_at_test_nor_at_labels_that_retain_lacks():
    parts = {
        "retain": np.linspace(0, 0.2, 20),
        "holdout": [*np.linspace(1, 1.2, 20), 0.05],
        "forget": [0.5, 2.0],
        "test": [0.3, 0.4],
    }
    labels = [0] * 10 + [1] * 10 + [0, 1] * 10 + [2] + [0] * 4
    values = membership.loss_threshold(attack_tables(parts, labels), "oracle")
    assert values["membership_attack_accuracy"][0] == 1 and values["membership_nonmember_share"].count == 2
    for other_test in ([99.0, 99.0], [-5.0, 0.0]):
        assert membership.loss_threshold(attack_tables({**parts, "test": other_test}, labels), "oracle") == values


def test_an_attack_is_right_about_what_it_was_not_fitted_on():
    """Fitted to 20 losses without a pattern, the best threshold is right in 0.63 of them on average, and in half of new ones."""
    draw = np.random.default_rng(3)
    pairs = draw.normal(size=(300, 2, 10))
    fitted = np.mean([membership.best_threshold(*pair)[1] for pair in pairs])
    held_out = np.mean([membership.held_out_accuracy(*pair).value for pair in pairs])
    assert fitted > 0.6 and held_out < 0.52
    assert membership.held_out_accuracy(np.zeros(1), np.ones(1)) is NOTHING


def shares_of(apart, trials, size=100):
    """The attack where retain is N(0, 1), holdout N(apart, 1) and forget N(apart / 2, 1), so that the true share is one half."""
    draw = np.random.default_rng(5)
    for seed in range(trials):
        parts = {
            "retain": draw.normal(size=size),
            "holdout": draw.normal(apart, 1, size),
            "forget": draw.normal(apart / 2, 1, 60),
        }
        yield membership.loss_threshold(attack_tables(parts, seed=seed), "oracle")["membership_nonmember_share"]


def test_a_share_is_withheld_with_the_reason_where_the_attack_only_guesses():
    withheld = [share for share in shares_of(0.0, 300) if share.reason]
    assert len(withheld) >= 0.97 * 300
    assert all(
        math.isnan(share.value) and share.count == 0 and "no better than guessing" in share.reason for share in withheld
    )
    tables = attack_tables({name: np.arange(30.0) for name in ("retain", "holdout", "forget")})
    entry = compare(tables, ["speechforget.evaluation.membership.loss_threshold"])["unlearned"][
        "membership_nonmember_share"
    ]
    assert entry["value"] is None and "no better than guessing" in entry["reason"]


@pytest.mark.parametrize("apart", [0.8, 2.0])
def test_the_interval_of_a_share_that_is_shown_covers_the_truth(apart):
    shown = [share for share in shares_of(apart, 200) if not share.reason]
    assert len(shown) > 100
    assert np.mean([share.low <= 0.5 <= share.high for share in shown]) >= 0.93
    assert all(share.low <= share.value <= share.high for share in shown)


def test_papers_attack_depends_on_the_seed_and_on_nothing_else():
    tables = make_tables(rows=900)
    first = membership.loss_threshold(tables, "unlearned")
    assert membership.loss_threshold(tables, "unlearned") == first
    others = [membership.loss_threshold(replace(tables, seed=seed), "unlearned") for seed in range(1, 9)]
    assert any(other["membership_attack_accuracy"] != first["membership_attack_accuracy"] for other in others)


def test_without_holdout_membership_is_undefined_and_the_rest_is_not():
    tables = make_tables(roles=("forget", "retain", "validation", "test"))
    result = compare(tables, OmegaConf.load(METRICS[0]).metrics)
    for name in ("membership_auc", "membership_nonmember_share", "membership_attack_accuracy"):
        assert result["oracle"][name]["value"] is None and result["oracle"][name]["count"] == 0
    assert result["unlearned"]["average_gap"]["count"] == 3
    assert compare(make_tables(), OmegaConf.load(METRICS[0]).metrics)["unlearned"]["average_gap"]["count"] == 4


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


logits = arrays.arrays(np.float64, (4, 5), elements=st.floats(-1e4, 1e4))


@given(logits, logits, st.floats(-1e3, 1e3))
@settings(max_examples=150, deadline=None)
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
        assert math.isnan(found.value) and found.reason == "there is no accuracy_test of both models", name
    churn = agreement.churn(tables, "unlearned")
    assert [churn[f"churn_{name}"].value for name in ("forget", "retain", "test")] == [0.5, 0.25, 0]


def test_objective_reads_forget_and_validation_only():
    entry = {"gap": 0.3}
    result = {"unlearned": {name: {"gap": 9.0} for name in ("accuracy_test", "accuracy_holdout")}}
    result["unlearned"] |= {"accuracy_forget": {"gap": -0.1}, "accuracy_validation": entry}
    assert objective(result) == pytest.approx(0.2)
    entry["gap"] = None
    assert math.isnan(objective(result))


def flagged(forget, retain, aim, forgotten=True, **others):
    """`flags` of an original that is always right, an oracle that is right on retain, and an unlearned model; aim: None for no oracle."""

    def model(forget, retain, **others):
        values = {"accuracy_forget": forget, "accuracy_retain": retain, "accuracy_validation": retain, **others}
        return {
            name: {
                "value": value,
                "gap": None if aim is None or value is None else value - (aim if "forget" in name else 1.0),
            }
            for name, value in values.items()
        }

    oracle = model(aim, None if aim is None else 1.0)
    comparison = {
        "original": model(1.0, 1.0, seconds=9.0, kl_forget=0.5),
        "oracle": oracle,
        "unlearned": model(forget, retain, seconds=1.0, **others),
    }
    return list(flags(comparison, forgotten)), objective(comparison)


@pytest.mark.parametrize(
    ("forget", "retain", "aim", "said"),
    [
        (1.0, 1.0, 0.0, ["does nothing"]),
        (0.985, 1.0, 0.0, []),
        (0.99, 1.0, 0.0, ["does nothing"]),  # within a point, though 1.0 - 0.99 > 0.01
        (1.0, 1.0, 0.96, []),  # the oracle is as near
        (1.0, 1.0, 0.95, []),
        (0.0, 0.85, 0.0, []),
        (0.0, 0.84, 0.0, ["destroys the model"]),
        (0.0, 0.86, 0.0, []),
        (0.0, 0.84, None, ["destroys the model"]),
        (1.0, 1.0, None, ["does nothing"]),
        (0.5, 0.9, None, []),
        (None, None, 0.0, []),
    ],
)
def test_a_model_that_is_not_changed_or_destroyed_is_flagged(forget, retain, aim, said):
    found, value = flagged(forget, retain, aim)
    assert found == said
    if aim is not None and forget is not None:  # no search prefers a destroyed model, whatever its gaps are
        assert (value == math.inf) == ("destroys the model" in said)


def test_without_an_oracle_samples_are_not_flagged_unless_nothing_differs():
    assert flagged(1.0, 1.0, None, forgotten=False, kl_forget=0.5)[0] == ["does nothing"]
    assert flagged(1.0, 1.0, None, forgotten=False, kl_forget=0.6)[0] == []


def test_spread_over_several_oracles():
    tables = make_tables(oracles=3)
    path = "speechforget.evaluation.accuracy.accuracy"
    result = compare(tables, [path])
    values = [
        np.mean(predictions(scores.logits)[scores.role == "forget"] == scores.label[scores.role == "forget"])
        for scores in tables.oracles
    ]
    assert result["unlearned"]["accuracy_forget"]["oracle_spread"] == pytest.approx(np.std(values, ddof=1))
    assert result["oracle"]["accuracy_forget"]["value"] == values[0]
    assert compare(make_tables(), [path])["oracle"]["accuracy_forget"]["oracle_spread"] is None


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("speechforget.evaluation.accuracy.accurcy", "did you mean 'accuracy'"),
        ("speechforget.evaluation.nowhere.accuracy", "no module"),
        ("accuracy", "no module"),
    ],
)
def test_an_unknown_metric_is_one_sentence(path, hint):
    with pytest.raises(UserError, match=hint):
        resolve(path)


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(UserError, match="Two metrics"):
        compare(
            make_tables(),
            [
                "speechforget.evaluation.accuracy.accuracy",
                "speechforget.evaluation.accuracy.accuracy_masked",
                __name__ + ".again",
            ],
        )


def again(tables, model):
    """A metric that repeats another's name."""
    return {"accuracy_masked_test": NOTHING}


@pytest.mark.parametrize("kind", ["sample", "class"])
@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_without_an_oracle_nothing_looks_as_if_there_were_one(path, kind):
    tables = make_tables(kind)
    alone, beside = (compare(one, OmegaConf.load(path).metrics) for one in (replace(tables, oracles=()), tables))
    assert alone.keys() == beside.keys() and all(alone[model].keys() == beside[model].keys() for model in beside)
    empty = {"value": None, "low": None, "high": None, "count": 0, "gap": None, "oracle_spread": None}
    assert all(entry == empty for entry in alone["oracle"].values())
    relative = ("kl_", "js_", "probability_distance_", "churn_", "average_gap", "tow")
    for model in ("original", "unlearned"):
        for name, entry in alone[model].items():
            expected = (
                empty if name.startswith(relative) else {**beside[model][name], "gap": None, "oracle_spread": None}
            )
            assert entry == expected, name
    assert math.isnan(objective(alone))
    with pytest.raises(NoOracle):
        _ = replace(tables, oracles=()).oracle


def test_seconds_that_nobody_knows_are_no_number():
    tables = make_tables()
    tables = replace(tables, original=replace(tables.original, seconds=math.nan))
    entry = compare(tables, ["speechforget.evaluation.timing.seconds"])["original"]["seconds"]
    assert entry["value"] is None and entry["count"] == 0


def test_metrics_of_float32_are_those_of_float64(monkeypatch):
    """And of chunks those of the whole."""
    tables = make_tables("class")

    def converted(kind):
        def one(scores):
            return replace(scores, logits=scores.logits.astype(np.float32).astype(kind))

        return replace(
            tables, original=one(tables.original), oracles=(one(tables.oracle),), unlearned=one(tables.unlearned)
        )

    paths = OmegaConf.load(METRICS[0]).metrics
    whole = compare(converted(np.float64), paths)
    monkeypatch.setattr("speechforget.evaluation.tables.CHUNK", 7 * CLASSES)
    for model, entries in compare(converted(np.float32), paths).items():
        for name, entry in entries.items():
            for key, number in entry.items():
                assert number == pytest.approx(whole[model][name][key], abs=1e-12), (model, name, key)


def test_a_comparison_of_large_tables_needs_little_memory(tmp_path):
    """Three models' logits of 30,000 utterances and 1,251 classes, 450 MB of them, in files."""
    rows, classes, draw = 30_000, 1251, np.random.default_rng(0)
    role, label = (
        draw.choice(["forget", "retain", "validation", "holdout", "test"], rows),
        draw.integers(0, classes, rows),
    )

    def model(name):
        logits = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, (rows, classes))
        noise = draw.standard_normal((1000, classes), dtype=np.float32)
        for start in range(0, rows, 1000):
            logits[start : start + 1000] = np.roll(noise, start + 1, axis=1)
        logits[np.arange(rows), label] += 5
        logits.flush()
        stored = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        return Scores(role, role == "holdout", label, stored, draw.random(rows), np.zeros((rows, 2), np.float32), 1.0)

    tables = Tables(model("original"), (model("oracle"),), model("unlearned"), (3,), 0)
    tracemalloc.start()
    result = compare(tables, OmegaConf.load(METRICS[0].with_stem("default")).metrics)
    _, peak = tracemalloc.get_traced_memory()  # what NumPy allocates, and no pages of files
    tracemalloc.stop()
    assert peak < 100e6
    assert result["unlearned"]["accuracy_test"]["count"] > 1000 and result["unlearned"]["kl_test"]["value"] > 0


def test_tables_refuse_what_is_not_aligned():
    tables = make_tables()
    with pytest.raises(ValueError, match="same utterances"):
        replace(tables, unlearned=replace(tables.unlearned, label=tables.unlearned.label[::-1].copy()))
    with pytest.raises(ValueError, match="unknown roles"):
        replace(tables.oracle, role=np.full(len(tables.oracle.role), "train"))
    with pytest.raises(ValueError, match="holdout utterances"):
        replace(tables.oracle, nonmember=np.ones(len(tables.oracle.role), dtype=bool))
