"""Tests of an audit reject a true null as often as they say, for utterances and for speakers alike."""

import numpy as np
import pytest
from support.audits import made

from speechforget.evaluation.audit import against_oracles, distances, signs
from speechforget.evaluation.audit.against_oracles import on_accuracy, on_pool, on_retain, permuted
from speechforget.evaluation.audit.catalogue import about
from speechforget.evaluation.audit.distances import nearer_to_original, rank_test
from speechforget.evaluation.audit.exchange import Exchange, Informed
from speechforget.evaluation.audit.per_utterance import PerUtterance
from speechforget.evaluation.audit.pool import pool
from speechforget.evaluation.audit.signs import patterns, share_as_large

PAIRS, DRAWS = 10, 40  # 5 % of 40 draws are two, so that the level is exact
SPEAKERS = {"size": 36, "speakers": 12}
KINDS = {"utterances": {"size": 20}, "speakers": SPEAKERS, "models with shifts": {"size": 20, "common": 1.0}}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "DRAWS", DRAWS)
    monkeypatch.setattr(against_oracles, "PERMUTATIONS", DRAWS - 1)
    monkeypatch.setattr(distances, "PERMUTATIONS", DRAWS - 1)


def p_values(seed: int, **changes: float) -> dict[str, float]:
    """The p-values of all tests where the unlearned models are oracles."""
    scores = made(seed, pairs=PAIRS, oracles=6, classes=3, retain=6, **changes)
    units, drawn = pool(scores), {}
    margins, oracles = units.margins("unlearned"), units.margins("oracle")
    exchanged = patterns(PAIRS, seed)
    for attack in (
        Exchange("margin", margins, units.half, units.everyone),
        Informed(units.features["unlearned"], units.half, units.everyone),
        PerUtterance(margins, units.half, units.everyone),
    ):
        drawn |= {name: values.mean(axis=1) for name, values in attack(units.own(), exchanged).items()}
    hard = PerUtterance(margins, units.half, units.hard)(units.own(), exchanged)["per_utterance_auc"].mean(axis=1)
    if np.isfinite(hard).all():
        drawn["hard_per_utterance_auc"] = hard
    retain = on_retain(scores.retain_label)
    drawn |= permuted(on_pool(units.half), margins.reshape(PAIRS, 2, -1), oracles, seed)
    drawn |= permuted(retain, scores.retain_unlearned, scores.retain_oracle, seed)
    drawn |= permuted(on_accuracy, scores.accuracy_test["unlearned"], scores.accuracy_test["oracle"], seed)
    found = {}
    for name, values in drawn.items():
        centred = values - about(name).ideal
        if np.isfinite(values).all():
            found[name] = share_as_large(np.abs(centred) if about(name).two_sided else centred)
    joint = [np.abs(drawn["exposure"]), drawn["per_utterance_auc"] - 0.5, np.abs(drawn["swap_auc_margin"] - 0.5)]
    found["strongest_attack"] = share_as_large(np.max(np.array(joint) / [[0.2], [0.05], [0.05]], axis=0))
    return found


# These take few values, so that ties make their tests reject less often than they say.
COARSE = {
    "swap_advantage_margin",
    "swap_advantage_informed",
    "per_utterance_accuracy",
    "retain_exposed",
    "retain_harmed",
}
COARSE |= {"per_utterance_tpr_at_1_percent"}


def check(kind: str, count: int, low: float, high: float) -> None:
    found = [p_values(seed, **KINDS[kind]) for seed in range(count)]
    rates = {name: np.mean([each[name] <= 0.05 for each in found if name in each]) for name in found[0]}
    assert len(rates) >= 14
    print("\n", kind, {name: round(float(rate), 4) for name, rate in rates.items()})  # pytest -s
    wrong = {name: rate for name, rate in rates.items() if rate > high or (rate < low and name not in COARSE)}
    assert not wrong


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_nulls(kind: str) -> None:
    check(kind, 2000, 0.035, 0.065)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_nulls(kind: str) -> None:
    """Within four standard errors of 5 %."""
    check(kind, 100, 0.0, 0.137)


def relative(seed: int, clustered: bool) -> float:
    """Oracle and original are exchangeable, in clusters of three utterances."""
    generator, groups = np.random.default_rng(seed), np.repeat(np.arange(15), 3)
    shared = generator.normal(size=(3, 15))[:, groups] * clustered
    mine, safe, known = generator.normal(size=(3, 45)) + shared
    return nearer_to_original(mine, safe, known, groups if clustered else None, seed).p


@pytest.mark.parametrize("clustered", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_relative_test_holds_its_level(clustered: bool) -> None:
    rate = np.mean([relative(seed, clustered) <= 0.05 for seed in range(2000)])
    assert 0.035 <= rate <= 0.065


def test_clusters_that_are_ignored_are_seen_by_this_test() -> None:
    """The same test by utterance would reject far too often: the check above can fail."""
    found = []
    for seed in range(300):
        generator, groups = np.random.default_rng(seed), np.repeat(np.arange(8), 12)
        mine, safe, known = generator.normal(size=(3, 96)) + 2 * generator.normal(size=(3, 8))[:, groups]
        found.append(nearer_to_original(mine, safe, known, None, seed).p <= 0.05)
    assert np.mean(found) > 0.15


def test_exchanges_and_ranks_hold_their_level() -> None:
    generator = np.random.default_rng(0)
    means = [patterns(PAIRS, seed) @ generator.standard_t(2, size=PAIRS) for seed in range(2000)]
    assert 0.035 <= np.mean([share_as_large(np.abs(each)) <= 0.05 for each in means]) <= 0.065
    ranks = [rank_test(generator.normal(size=20)).p <= 0.05 for _ in range(2000)]
    assert 0.035 <= np.mean(ranks) <= 0.065
