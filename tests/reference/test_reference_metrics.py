"""Compare metrics with the numbers of public code on the same logits."""

from __future__ import annotations

import numpy as np
import pytest
from support.reference_cases import CASES, load

from speechforget.evaluation import attack_features, divergence, membership, published_attacks
from speechforget.evaluation.divergence import distribution
from speechforget.evaluation.gum import cgum_score, gum_score
from speechforget.evaluation.tables import Scores, Tables
from speechforget.evaluation.zrf import zrf

ATTACKS = [case for case in CASES if case["file"].startswith("svcmia-")]
GUMS = [case for case in CASES if case["file"].startswith("gum-")]
CERTAIN = 20.0  # nats: above, the reference loses digits of 1 - p, and cuts probabilities below 1e-30
PARTS = ("forget", "retain", "test")

DIVERGENCES = [case for case in CASES if case["file"].startswith("divergence-")]
LOSSES = [case for case in CASES if case["file"].startswith("lossmia-") and case["file"].endswith("-unslu.npz")]


def models(logits):
    return sorted({name.split(".")[0] for name in logits} - {"y"})


def close(ours, reference, tolerance):
    limit = tolerance["atol"] + tolerance["rtol"] * np.max(np.abs(reference))
    assert np.max(np.abs(ours - reference)) <= limit


def test_there_are_cases():
    assert len(DIVERGENCES) == 4 and len(LOSSES) == 4 and len(ATTACKS) == 4 and len(GUMS) == 1


@pytest.mark.parametrize("case", DIVERGENCES, ids=lambda case: case["file"])
def test_divergences_to_the_oracle(case):
    logits, reference, tolerance = load(case["inputs"]), load(case["file"]), case["tolerance"]
    for model in models(logits):
        for part in PARTS:
            oracle, ours = logits[f"oracle.{part}"], logits[f"{model}.{part}"]
            close(divergence.kullback_leibler(oracle, ours), reference[f"{model}.{part}.kl_oracle_to_model"], tolerance)
            close(divergence.jensen_shannon(oracle, ours), reference[f"{model}.{part}.js_oracle"], tolerance)
            close(
                divergence.probability_distance(oracle, ours).mean(), reference[f"{model}.{part}.actdist_l2"], tolerance
            )
            if model != "oracle":
                assert (
                    abs(divergence.jensen_shannon(oracle, ours).mean() - reference[f"{model}.{part}.js_lotus_released"])
                    > 1e-6
                ), "a known defect"


@pytest.mark.parametrize("case", DIVERGENCES, ids=lambda case: case["file"])
def test_the_metric_takes_means_per_subset(case):
    tables, reference = tables_of(case), load(case["file"])
    found = divergence.divergence(tables, "unlearned")
    for part in PARTS:
        close(found[f"kl_{part}"].value, reference[f"scrub.{part}.kl_oracle_to_model"].mean(), case["tolerance"])
        close(found[f"js_{part}"].value, reference[f"scrub.{part}.js_oracle"].mean(), case["tolerance"])


@pytest.mark.parametrize("case", DIVERGENCES, ids=lambda case: case["file"])
def test_the_metric_gives_the_zrf_of_one_random_network(case):
    tables, reference = tables_of(case), load(case["file"])
    for model, name in (("original", "original"), ("oracle", "oracle"), ("unlearned", "scrub")):
        close(zrf(tables, model)["zrf_forget"].value, reference[f"{name}.zrf"], case["tolerance"])


def tables_of(case):
    logits = load(case["inputs"])
    role = np.concatenate([np.full(len(logits[f"y.{part}"]), part) for part in PARTS])
    label = np.concatenate([logits[f"y.{part}"] for part in PARTS]).astype(np.int64)

    def scores(model):
        stacked = np.concatenate([logits[f"{model}.{part}"] for part in PARTS])
        loss = -divergence.log_softmax(stacked)[np.arange(len(label)), label]
        return Scores(role, np.zeros(len(role), dtype=bool), label, stacked, loss, stacked, 1.0)

    drawn = logits["random.forget"][None]
    return Tables(scores("original"), (scores("oracle"),), scores("scrub"), (), 0, untrained=drawn)


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["file"])
def test_losses_and_the_attack_on_them(case):
    from sklearn.metrics import roc_auc_score

    logits, reference = load(case["inputs"]), load(case["file"])
    for model in models(logits):
        losses = {}
        for part in ("forget", "test"):
            label = logits[f"y.{part}"].astype(np.int64)
            losses[part] = -divergence.log_softmax(logits[f"{model}.{part}"])[np.arange(len(label)), label]
            close(losses[part], reference[f"{model}.loss.{part}"], case["tolerance"]["loss"])
        members = np.repeat([1, 0], [len(losses["forget"]), len(losses["test"])])
        expected = roc_auc_score(members, -np.concatenate([losses["forget"], losses["test"]]))
        assert membership.area_under_curve(losses["forget"], losses["test"]).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["file"])
def test_the_logistic_attack_on_given_losses(case):
    reference = load(case["file"])
    for model in models(load(case["inputs"])):
        losses, members = reference[f"{model}.features"].ravel(), reference[f"{model}.members"]
        assert published_attacks.split_accuracy(losses, members) == pytest.approx(reference[f"{model}.MIA"], abs=1e-9)


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["file"])
def test_support_vector_attacks(case):
    """The modified entropy is that of the second repository; the first one's is wrong."""
    logits, reference = load(case["inputs"]), load(case["file"])
    size = len(logits["y.test"])
    for model in models(logits):

        def read(part, model=model):
            return distribution(logits[f"{model}.{part}"]), logits[f"y.{part}"]

        for part in PARTS:
            for name in ("entropy", "modified_entropy"):
                expected = reference[f"{model}.{part}.{name.replace('modified', 'm')}"]
                exact = expected < CERTAIN
                ours = getattr(attack_features, name)(*read(part))
                close(np.where(exact, ours, 0), np.where(exact, expected, 0), case["tolerance"]["per-sample features"])
                assert np.all(ours[~exact] > CERTAIN - 1)
            assert np.max(np.abs(expected - reference[f"{model}.{part}.m_entropy_released"])) > 1e-3, "a known defect"
        for name, feature in published_attacks.FEATURES.items():
            columns = [feature(*read(part))[:, None] for part in ("retain", "test", "forget")]
            told = {"modified_entropy": "m_entropy_corrected"}.get(name, name)
            found = published_attacks.fitted_share(
                published_attacks.support_vectors(), columns[0][:size], *columns[1:]
            ).mean()
            assert found == pytest.approx(reference[f"{model}.{told}"], abs=1.01 / 48), (model, name)
        columns = [read(part)[0].probability for part in ("retain", "test", "forget")]
        found = published_attacks.fitted_share(published_attacks.support_vectors(), columns[0][:size], *columns[1:])
        assert found.mean() == pytest.approx(reference[f"{model}.prob"], abs=1.01 / 48), model


def test_gum_and_cgum():
    reference = load(GUMS[0]["file"])
    for row in range(len(reference["GUM"])):
        given = {name: column[row].item() for name, column in reference.items()}
        f1, time = (given["f1_unl"], given["f1_gold"]), (given["time_unl"], given["time_gold"])
        attack = (given["mia_unl"], given["mia_gold"], given["mia_orig"])
        weights = given["alpha"], given["beta"]
        assert gum_score(f1, attack, time, *weights) == pytest.approx(given["GUM"], abs=1e-11, nan_ok=True)
        assert cgum_score(f1, attack, time, given["C"], *weights) == pytest.approx(given["CGUM"], abs=1e-11)
