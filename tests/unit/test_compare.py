"""Comparisons: all metrics of all models, gaps to the oracle, flags and the objective of a search."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats
from support.score_tables import CLASSES, METRICS, QUICK, make_tables

from speechforget.config.inputs import metrics_in
from speechforget.errors import UserError
from speechforget.evaluation import agreement
from speechforget.evaluation.compare import compare, objective, resolve
from speechforget.evaluation.flags import flags
from speechforget.evaluation.tables import NOTHING, NoOracle, Scores, Tables, Value, predictions


def again(tables, model):
    """A metric that repeats another's name."""
    return {"accuracy_masked_test": NOTHING}


def flagged(forget, retain, aim, forgotten=True, **others):
    """Flags and objective where original and oracle are right on all of retain. aim: the oracle's accuracy, or None."""

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


@pytest.fixture(scope="module", params=["sample", "class"])
def tables(request):
    return make_tables(request.param)


# What `full` measures, too, is not measured twice.
LISTS = [path for path in METRICS if path != QUICK and not path.stem.startswith("transcripts")]


def metrics_of(path):
    """List the metrics of a choice, with those of `quick` where it adds to them."""
    chosen = OmegaConf.load(path)
    more = [OmegaConf.load(QUICK)] if "quick" in (chosen.get("defaults") or []) else []
    return [name for one in (*more, chosen) for name in metrics_in(one)]


def test_oracle_against_itself_has_gap_zero(tables):
    assert {path.stem for path in METRICS} >= {"paper", "quick", "full"}
    tables = replace(tables, unlearned=tables.oracle)
    for path in LISTS:
        result = compare(tables, metrics_of(path))
        for model in ("oracle", "unlearned"):
            for name, entry in result[model].items():
                missing = entry["gap"] is None and entry["value"] is None and entry["count"] == 0
                assert entry["gap"] == 0 or missing, (path.stem, name)
        assert objective(result) == 0
        for name in ("kl", "js", "churn") if path.stem != "paper" else ():
            assert result["oracle"][f"{name}_forget"]["value"] == pytest.approx(0, abs=1e-12)


def test_another_model_than_the_oracle_has_a_gap_and_all_is_strict_json(tables):
    for path in LISTS:
        result = compare(tables, metrics_of(path))
        moved = [name for name, entry in result["original"].items() if entry["gap"] not in (None, 0)]
        assert len(moved) > 5 and result["original"]["accuracy_forget"]["gap"] > 0
        assert len(moved) > 10 or path.stem == "paper"
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        names = {"value", "low", "high", "count", "gap", "oracle_spread", "null_low", "null_high", "oracles"}
        assert all(names <= set(entry) <= names | {"reason", "named"} for entry in result["unlearned"].values())


def test_a_model_without_numbers_is_refused():
    tables = make_tables("class")
    for model in ("original", "oracle", "unlearned"):
        for column, number in (("logits", np.nan), ("logits", np.inf), ("loss", np.nan)):
            values = getattr(tables.of(model), column).copy()
            values[:3] = number
            ruined = replace(tables.of(model), **{column: values})
            changed = replace(tables, **({"oracles": (ruined,)} if model == "oracle" else {model: ruined}))
            words = rf"The {model} model diverged: its scores of 3 of 600 utterances are not finite"
            with pytest.raises(UserError, match=words):
                compare(changed, ["speechforget.evaluation.accuracy.accuracy"])


def test_without_holdout_membership_is_undefined_and_the_rest_is_not():
    tables = make_tables(roles=("forget", "retain", "validation", "test"))
    result = compare(tables, OmegaConf.load(QUICK).metrics)
    for name in ("membership_auc", "membership_nonmember_share", "membership_attack_accuracy"):
        assert result["oracle"][name]["value"] is None and result["oracle"][name]["count"] == 0
    assert result["unlearned"]["average_gap"]["count"] == 3
    assert compare(make_tables(), OmegaConf.load(QUICK).metrics)["unlearned"]["average_gap"]["count"] == 4


def test_objective_reads_forget_and_validation_only():
    entry = {"gap": 0.3}
    result = {"unlearned": {name: {"gap": 9.0} for name in ("accuracy_test", "accuracy_holdout")}}
    result["unlearned"] |= {"accuracy_forget": {"gap": -0.1}, "accuracy_validation": entry}
    assert objective(result) == pytest.approx(0.2)
    assert math.isnan(objective(result, "told_from_oracles"))
    for told, expected in ((0.5, 0.4 / 3), (0.3, 0.4 / 3), (1.0, 1.4 / 3)):  # nearer than oracles are is no merit
        result["unlearned"]["told_from_oracles"] = {"value": told}
        assert objective(result, "told_from_oracles") == pytest.approx(expected)
        assert objective(result) == pytest.approx(0.2)
    assert math.isnan(objective(result, "exposure_forget"))
    result["unlearned"]["told_from_oracles"] = {"value": 0.5}
    for nats, left in ((0.0, 0.0), (math.log(3), 0.5), (-math.log(3), 0.5), (50, 1.0)):  # log 3 takes 1/2 to 3/4
        result["unlearned"]["exposure_forget"] = {"value": nats, "gap": 9.0}
        assert objective(result, "exposure_forget") == pytest.approx((0.4 + left) / 4)
    entry["gap"] = None
    assert math.isnan(objective(result))


def test_a_model_that_is_not_changed_or_destroyed_is_flagged():
    """Cases: accuracy on forget and retain, the oracle's accuracy on forget (None without an oracle), the flags."""
    for forget, retain, aim, expected in (
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
    ):
        found, value = flagged(forget, retain, aim)
        assert found == expected, (forget, retain, aim)
        if aim is not None and forget is not None:  # no search prefers a destroyed model, whatever its gaps are
            assert (value == math.inf) == ("destroys the model" in expected), (forget, retain, aim)


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


def test_a_band_of_oracles_holds_no_oracle_against_itself():
    tables = make_tables(oracles=3)
    paths = [f"speechforget.evaluation.{name}" for name in ("agreement.churn", "agreement.tow", "accuracy.accuracy")]
    entries = compare(tables, paths)["unlearned"]
    predicted = [scores.predicted[tables.subsets()["test"]] for scores in tables.oracles]
    churn = [np.mean(predicted[one] != predicted[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    found = entries["churn_test"]
    assert (found["null_low"], found["null_high"]) == (pytest.approx(min(churn)), pytest.approx(max(churn)))
    assert found["null_low"] > 0 and entries["tow"]["null_high"] < 1 and found["oracles"] == 3
    right = [np.mean(one == tables.original.label[tables.subsets()["test"]]) for one in predicted]
    found = entries["accuracy_test"]
    assert (found["null_low"], found["null_high"]) == (pytest.approx(min(right)), pytest.approx(max(right)))
    for count in (1, 2):  # too few for a band; two oracles are one pair, which has no spread
        entries = compare(make_tables(oracles=count), paths)["unlearned"]
        assert all(entry["null_low"] is None and entry["oracles"] == count for entry in entries.values())
        assert entries["churn_test"]["oracle_spread"] is None
        assert (entries["accuracy_test"]["oracle_spread"] is None) == (count == 1)


def test_tow_of_pairs_is_the_mean_over_oracles():
    tables = make_tables(oracles=3)
    each = [agreement.tow(replace(tables, oracles=(oracle,)), "unlearned")["tow"].value for oracle in tables.oracles]
    found = agreement.tow_pairs(tables, "unlearned")["tow_pairs"]
    assert (found.value, found.count) == (pytest.approx(np.mean(each)), 3) and found.low < found.value < found.high
    half = stats.t.ppf(0.975, 2) * np.std(each, ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(found.value - half), pytest.approx(found.value + half))
    others = agreement.tow_pairs(tables, "oracle")["tow_pairs"]
    assert others.value < 1 and others.count == 2, "an oracle is not compared with itself"
    alone = agreement.tow_pairs(make_tables(), "oracle")["tow_pairs"]
    assert (alone.value, alone.count) == (1, 1) and math.isnan(alone.low)


ROLES = ("forget", "retain", "validation", "holdout", "test")


def one_forgotten(tables):
    """The same tables with one forget utterance, and the others in retain."""
    forget = np.flatnonzero(tables.original.role == "forget")[1:]
    role = tables.original.role.copy()
    role[forget] = "retain"
    models = {name: replace(getattr(tables, name), role=role) for name in ("original", "unlearned")}
    models["oracles"] = tuple(replace(one, role=role) for one in tables.oracles)
    return replace(tables, untrained=tables.untrained[:, :1], **models)


SITUATIONS = {
    "as it is": make_tables,
    "no holdout": lambda kind: make_tables(kind, roles=tuple(role for role in ROLES if role != "holdout")),
    "no test": lambda kind: make_tables(kind, roles=tuple(role for role in ROLES if role != "test")),
    "one to forget": lambda kind: one_forgotten(make_tables(kind)),
    "no oracle": lambda kind: replace(make_tables(kind), oracles=()),
    "two oracles": lambda kind: make_tables(kind, oracles=2),
    "three oracles": lambda kind: make_tables(kind, oracles=3),
    "no names": lambda kind: replace(make_tables(kind), speaker=None, classes=()),
    "few": lambda kind: make_tables(kind, rows=30, seed=1),
}


@pytest.mark.parametrize("kind", ["sample", "class"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_metric_has_a_number_or_a_reason(situation, kind):
    paths = metrics_of(QUICK.with_stem("full"))
    for entries in compare(SITUATIONS[situation](kind), paths).values():
        for name, entry in entries.items():
            assert (entry["value"] is None) == ("reason" in entry), (name, entry)
            assert entry["value"] is None or entry["count"] > 0, (name, entry)
            assert (entry["low"] is None) == (entry["high"] is None), (name, entry)
            if entry["low"] is not None:
                assert entry["low"] <= entry["value"] <= entry["high"], (name, entry)


def test_an_unknown_metric_is_one_sentence():
    for path, hint in (
        ("speechforget.evaluation.accuracy.accurcy", "did you mean 'accuracy'"),
        ("speechforget.evaluation.nowhere.accuracy", "no module"),
        ("accuracy", "no module"),
    ):
        with pytest.raises(UserError, match=hint):
            resolve(path)


def test_two_metrics_of_one_name_are_refused():
    paths = [f"speechforget.evaluation.accuracy.{name}" for name in ("accuracy", "accuracy_masked")]
    with pytest.raises(UserError, match="Two metrics"):
        compare(make_tables(), [*paths, __name__ + ".again"])


def test_without_an_oracle_nothing_looks_as_if_there_were_one(tables):
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    unmeasured = {"gap": None, "oracle_spread": None, "null_low": None, "null_high": None, "oracles": 0}
    empty = {**nothing, **unmeasured, "reason": "there is no oracle"}
    relative = ("kl_", "js_", "probability_distance_", "churn_", "average_gap", "tow", "gum", "cgum", "neighbour_js")
    relative += ("relative_test", "equivalence_", "completeness_", "exposure_", "told_from_oracles")
    for path in LISTS:
        alone, beside = (compare(one, metrics_of(path)) for one in (replace(tables, oracles=()), tables))
        assert alone.keys() == beside.keys() and all(alone[model].keys() == beside[model].keys() for model in beside)
        assert all(entry == empty for entry in alone["oracle"].values())
        for model in ("original", "unlearned"):
            for name, entry in alone[model].items():
                own = {**beside[model][name], **unmeasured}
                assert entry == (empty if name.startswith(relative) else own), name
        assert math.isnan(objective(alone))
    with pytest.raises(NoOracle):
        _ = replace(tables, oracles=()).oracle


def test_unknown_seconds_are_no_number():
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

    paths = OmegaConf.load(QUICK).metrics
    whole = compare(converted(np.float64), paths)
    monkeypatch.setattr("speechforget.evaluation.tables.CHUNK", 7 * CLASSES)
    for model, entries in compare(converted(np.float32), paths).items():
        for name, entry in entries.items():
            for key, number in entry.items():
                assert number == pytest.approx(whole[model][name][key], abs=1e-12), (model, name, key)


@pytest.mark.slow
def test_a_comparison_of_large_tables_needs_little_memory(tmp_path):
    """Logits of three models, 180 MB together, are in files; beyond a few chunks they are not read into memory."""
    rows, classes, draw = 12_000, 1251, np.random.default_rng(0)
    role = draw.choice(["forget", "retain", "validation", "holdout", "test"], rows)
    label = draw.integers(0, classes, rows)

    def model(name):
        noise = draw.standard_normal((1000, classes), dtype=np.float32)
        logits = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, (rows, classes))
        for start in range(0, rows, 1000):
            logits[start : start + 1000] = np.roll(noise, start + 1, axis=1)
        logits[np.arange(rows), label] += 5
        logits.flush()
        stored = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        return Scores(role, role == "holdout", label, stored, draw.random(rows), np.zeros((rows, 2), np.float32), 1.0)

    tables = Tables(model("original"), (model("oracle"),), model("unlearned"), (3,), 0)
    tracemalloc.start()
    result = compare(tables, OmegaConf.load(QUICK).metrics)
    _, peak = tracemalloc.get_traced_memory()  # what NumPy allocates, without pages of files
    tracemalloc.stop()
    assert peak < 40e6, peak  # one model's logits are 60 MB
    assert result["unlearned"]["accuracy_test"]["count"] > 1000 and result["unlearned"]["kl_test"]["value"] > 0


def test_values_that_attacks_measured_stand_beside_metrics():
    path, value = "speechforget.evaluation.accuracy.accuracy", Value(0.5, 0.4, 0.6, 9)
    oracles = [{"probe": value._replace(value=number)} for number in (0.1, 0.2, 0.6)]
    measured = {"original": [{"probe": value}], "oracle": oracles, "unlearned": [{"probe": value}]}
    result = compare(make_tables(oracles=3), [path], measured)
    spread = pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 9, "gap": 0.4, "oracle_spread": spread}
    numbers |= {"null_low": 0.1, "null_high": 0.6, "oracles": 3}
    assert result["unlearned"]["probe"] == numbers
    assert result["oracle"]["probe"]["value"] == 0.1 and result["unlearned"].keys() == result["oracle"].keys()
    alone = compare(replace(make_tables(), oracles=()), [path], {**measured, "oracle": []})
    assert alone["unlearned"]["probe"]["gap"] is None and alone["oracle"]["probe"]["value"] is None
    with pytest.raises(ValueError, match="attacks measured 3 models as oracle"):
        compare(make_tables(oracles=2), [path], measured)
    with pytest.raises(UserError, match="An attack and a metric give 'accuracy_test'"):
        compare(make_tables(), [path], {"unlearned": [{"accuracy_test": value}]})
