"""The statistics of an audit: closed forms, symmetry, ties, small sets, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audits import made

from speechforget.errors import UserError
from speechforget.evaluation.audit.against_oracles import jackknife, of_oracles, on_accuracy, on_retain, permuted
from speechforget.evaluation.audit.attack_scores import SCORES, attack_scores, margin
from speechforget.evaluation.audit.completeness import completeness
from speechforget.evaluation.audit.distances import bandwidth, energy, equivalence, nearer_to_original, rank_test
from speechforget.evaluation.audit.exchange import Exchange, Informed, area
from speechforget.evaluation.audit.per_utterance import PerUtterance, fits, hit_rate, told_from_oracles
from speechforget.evaluation.audit.pool import hardest, pool, split
from speechforget.evaluation.audit.signs import patterns, share_as_large
from speechforget.evaluation.intervals import clopper_pearson, student

small = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def test_margins_have_a_closed_form() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert margin(logits, np.array([0, 0, 1])) == pytest.approx([2.0, -5.0, 0.0])
    three = np.log(np.array([[0.5, 0.3, 0.2]]))
    assert margin(three, np.array([0])) == pytest.approx([math.log(0.5 / 0.5)])
    large = np.array([[1e4, 0.0, 0.0]], dtype=np.float32)
    assert margin(large, np.array([0])) == pytest.approx([1e4 - math.log(2)])
    with pytest.raises(ValueError, match="2 or more classes"):
        margin(np.ones((3, 1)), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="finite"):
        margin(np.array([[np.nan, 1.0]]), np.array([0]))


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=5), st.integers(0, 2))
def test_attack_scores_follow_their_formulas(logits: list[float], label: int) -> None:
    p = np.exp(logits) / np.exp(logits).sum()
    others = [k for k in range(len(p)) if k != label]
    found = attack_scores(np.array([logits]), np.array([label]))
    assert tuple(found) == SCORES
    assert found["margin"] == pytest.approx([math.log(p[label] / p[others].sum())], abs=1e-9)
    assert found["confidence"] == pytest.approx([math.log(p.max() / (p.sum() - p.max()))], abs=1e-6)
    assert found["entropy"] == pytest.approx([(p * np.log(p)).sum()], abs=1e-9)
    modified = (1 - p[label]) * math.log(p[label]) + sum(p[k] * math.log(1 - p[k]) for k in others)
    assert found["modified_entropy"] == pytest.approx([modified], rel=1e-6, abs=1e-9)


def test_attack_scores_do_not_saturate() -> None:
    sure = attack_scores(np.array([[200.0, 0.0, 0.0], [300.0, 0.0, 0.0], [0.0, 300.0, 0.0]]), np.zeros(3, dtype=int))
    for name in ("margin", "confidence"):
        assert sure[name][1] > sure[name][0]
    assert all(np.isfinite(values).all() for values in sure.values())
    assert sure["modified_entropy"][2] < -500  # a sure error is the least like training data


@given(small, small)
def test_area_counts_pairs(positives: list[int], negatives: list[int]) -> None:
    wins = sum((up > down) + (up == down) / 2 for up in positives for down in negatives)
    found = area(np.array(positives, float), np.array(negatives, float))
    assert found == pytest.approx(wins / len(positives) / len(negatives))
    assert area(np.array(negatives, float), np.array(positives, float)) == pytest.approx(1 - found)


def test_area_of_an_empty_set_is_no_number() -> None:
    assert math.isnan(area(np.empty(0), np.ones(2))) and math.isnan(area(np.ones(2), np.empty(0)))


def attacks(scores, kind="unlearned"):
    """All attacks by hand: name -> values (B, J)."""
    units = pool(scores)
    runs = [Exchange(name, each, units.half, units.everyone) for name, each in units.scores[kind].items()]
    runs += [Informed(units.features[kind], units.half, units.everyone)]
    runs += [PerUtterance(units.margins(kind), units.half, units.everyone)]
    found = {}
    for run in runs:
        found |= run(units.own(), patterns(units.pairs))
    return found


def test_a_perfect_attack_gives_one() -> None:
    found = attacks(made(0, kept=60.0, pairs=4, size=240))
    for name, values in found.items():
        if "advantage" in name or ("auc" in name and "informed" not in name):
            assert values[0] == pytest.approx(1.0), name
    assert found["per_utterance_accuracy"][0] == pytest.approx(1.0)
    assert found["per_utterance_tpr_at_1_percent"][0] == pytest.approx(1.0)
    assert found["swap_auc_informed"][0] == pytest.approx(1.0)
    assert found["exposure"][0].mean() == pytest.approx(60.0, abs=0.5)


def test_models_that_are_equal_tell_nothing_whatever_is_hard() -> None:
    scores = made(0, pairs=4)
    same = replace(scores, unlearned=np.broadcast_to(scores.oracle[0], scores.unlearned.shape))
    for name, values in attacks(same).items():
        if name.startswith("swap"):
            assert values == pytest.approx(0.5 if "auc" in name else 0.0), name
        elif name == "exposure":
            assert values == pytest.approx(0.0)
        elif "tpr" not in name:
            assert values == pytest.approx(0.5), name


def test_an_exchange_of_names_is_an_exchange_of_halves() -> None:
    """Signs must do what relabelling the halves does, or their null is not the null."""
    scores = made(3, pairs=4, kept=1.0, each=1.0)
    signs = patterns(4)
    found = attacks(scores)
    for row in (3, 6):
        half = np.where(signs[row][:, None] > 0, scores.half, 1 - scores.half)
        by_hand = attacks(replace(scores, half=half))
        for name, values in found.items():
            assert values[row] == pytest.approx(by_hand[name][0], nan_ok=True), name


def test_pairs_exchanged_all_at_once_give_the_same() -> None:
    """The first pair is never exchanged: that loses nothing, since averages turn around and the rest stays the same."""
    scores = made(4, pairs=4, kept=1.0)
    turned = replace(scores, half=1 - scores.half)
    ours, theirs = attacks(scores), attacks(turned)
    for name in ours:
        centre = {"exposure": 0.0}.get(name, 0.5)
        if name == "exposure" or (name.startswith("swap_auc") and "informed" not in name):
            assert theirs[name][0] - centre == pytest.approx(centre - ours[name][0]), name
        elif "tpr" not in name:  # a rate on one side
            assert theirs[name][0] == pytest.approx(ours[name][0]), name


def test_a_cut_is_chosen_by_the_other_pairs() -> None:
    """A pair in which the forgotten stand out on the other side must lose by the others' direction."""
    half = np.tile([0, 0, 1, 1], (3, 1))
    known = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    values = np.concatenate([known, known, 1 - known])
    found = Exchange("margin", values, half, np.ones_like(half, dtype=bool))(
        np.arange(6).reshape(3, 2), np.ones((1, 3))
    )
    assert found["swap_auc_margin"] == pytest.approx(np.array([[1.0, 1.0, 0.0]]))
    assert found["swap_advantage_margin"][0, 2] == pytest.approx(-1.0)


def test_what_single_utterances_show_is_found_by_them() -> None:
    """Gradient ascent on samples: no mean shift, so averages see nothing, yet each utterance stands out."""
    found = attacks(made(1, each=3.0))
    assert abs(found["swap_auc_margin"][0].mean() - 0.5) < 0.05
    assert found["per_utterance_auc"][0].mean() > 0.8


def test_over_forgetting_is_found_with_the_other_sign() -> None:
    found = attacks(made(2, kept=-3.0))
    assert found["swap_auc_margin"][0].mean() < 0.25
    assert found["swap_advantage_margin"][0].mean() > 0.4
    assert found["per_utterance_auc"][0].mean() > 0.8


def test_fits_leave_out_what_they_score() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(5, 7)), generator.normal(size=(5, 7))
    for row, fit in enumerate(fits(first, second)):
        one, two = np.delete(first, row, axis=0), np.delete(second, row, axis=0)
        variance = (one.var(axis=0, ddof=1).mean() + two.var(axis=0, ddof=1).mean()) / 2
        assert fit.first == pytest.approx(one.mean(axis=0)) and fit.second == pytest.approx(two.mean(axis=0))
        assert fit.variance == pytest.approx(variance)
    assert fits(first[:2], second[:2])[0].variance == 1.0
    assert fits(np.ones((4, 3)), np.ones((4, 3)))[0].variance > 0


def test_hit_rates_keep_their_promise() -> None:
    negatives = np.arange(200.0)
    assert hit_rate(np.array([197.0, 198.0, 199.0, 500.0]), negatives, 0.01) == 0.75  # the cut is 197
    assert math.isnan(hit_rate(np.ones(3), negatives, 0.001))
    assert hit_rate(np.zeros(5), np.zeros(100), 0.01) == 0.0  # a tie is no hit


def test_told_from_oracles_by_hand() -> None:
    generator = np.random.default_rng(1)
    oracles, half = generator.normal(size=(4, 30)), np.tile(np.arange(30) % 2, (4, 1))
    assert told_from_oracles(oracles + 50, oracles, half) == pytest.approx(1.0)
    assert told_from_oracles(oracles - 50, oracles, half) == pytest.approx(1.0)
    alike = [
        told_from_oracles(*np.random.default_rng(seed).normal(size=(2, 4, 30)), half).mean() for seed in range(300)
    ]
    assert np.mean(alike) == pytest.approx(0.5, abs=0.012)
    assert told_from_oracles(oracles[:2], oracles[2:], half[:2]).shape == (2,)


def test_exact_tests_by_hand() -> None:
    assert patterns(3).tolist() == [[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]]
    assert patterns(8).shape == (128, 8) and len(np.unique(patterns(8), axis=0)) == 128
    assert patterns(12).shape == (256, 12) and (patterns(12)[0] == 1).all()
    assert share_as_large(np.arange(20.0)[::-1]) == 1 / 20
    assert share_as_large(np.zeros(40)) == 1.0  # ties count
    assert math.isnan(share_as_large(np.arange(8.0)))  # 4 pairs: 2/16 is the least


def test_intervals_by_hand() -> None:
    low, high = student([0.4, 0.6])
    assert (low + high) / 2 == pytest.approx(0.5) and high - low == pytest.approx(2 * 12.7062 * 0.1, rel=1e-4)
    assert clopper_pearson(0.0, 300)[1] == pytest.approx(0.0122, abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)


def test_hard_units_are_chosen_by_other_pairs() -> None:
    """A pair with the largest memorisation of a unit does not make it hard for itself."""
    half = np.tile(np.arange(6) % 2, (3, 1))
    originals = np.zeros((6, 6))
    originals[0, 0] = 9.0  # only pair 0 memorises unit 0
    originals[[2, 4], 2] = 1.0
    hard = hardest(originals, half)
    assert hard.sum(axis=1).tolist() == [2, 2, 2]
    assert hard[1, 0] and hard[2, 0] and hard[0, 2]
    assert not hard[0, 0]


def test_speakers_are_units() -> None:
    scores = made(0, speakers=20, size=60, pairs=4)
    units = pool(scores)
    assert units.speakers and units.units == 20 and units.half.shape == (4, 20)
    mean = margin(scores.oracle[0], scores.label)[scores.unit == 7].mean()
    assert units.margins("oracle")[0, 7] == pytest.approx(mean)
    forgotten, unheard = split(units.margins("original"), units.own(), units.half)
    assert (forgotten - unheard).mean() == pytest.approx(2.0, abs=0.3)


def mmd2(first: np.ndarray, second: np.ndarray, width: float) -> float:
    """The unbiased MMD^2 by its definition: no recording is compared with itself."""

    def kernel(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.exp(-((one[:, None] - two) ** 2) / (2 * width**2))

    inside = [kernel(each, each)[~np.eye(len(each), dtype=bool)].mean() for each in (first, second)]
    return float(sum(inside) - 2 * kernel(first, second).mean())


def test_distances_have_closed_forms() -> None:
    assert bandwidth(np.array([0.0, 2.0]), np.array([4.0])) == 2.0
    assert bandwidth(np.zeros(4)) == 1.0
    assert energy(np.array([[0.0], [0.0]]), np.array([[3.0], [3.0]])) == pytest.approx([6.0])
    assert energy(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])) == pytest.approx([-1.0])  # 2 * 0.5 - 1 - 1
    generator = np.random.default_rng(0)
    assert abs(energy(generator.normal(size=(4, 20_000)), generator.normal(size=(5, 20_000))).mean()) < 0.02


def test_the_relative_test_is_a_difference_of_mmd() -> None:
    generator = np.random.default_rng(3)
    original, oracle, other = (mean + generator.normal(size=150) for mean in (2.0, 0.0, 0.0))
    width = bandwidth(other, oracle, original)
    test = nearer_to_original(other, oracle, original)
    assert test.statistic == pytest.approx(mmd2(other, oracle, width) - mmd2(other, original, width))
    assert test.p > 0.5
    assert nearer_to_original(original + generator.normal(0, 0.3, 150), oracle, original).p < 0.01
    beyond = generator.normal(-4.0, 1.0, 150)  # over-forgetting passes
    assert nearer_to_original(beyond, oracle, original).p > 0.5
    few = np.arange(150) % 4
    assert math.isnan(nearer_to_original(other, oracle, original, few).p)


def test_equivalence_is_the_log_of_a_distance() -> None:
    """All pairs of 0, 1 and 1, 2, with the median distance 1 as width."""
    model, oracles = np.array([0.0, 1.0]), np.array([[1.0, 2.0], [1.0, 2.0]])
    kernel = [math.exp(-(distance**2) / 2) for distance in (0, 1, 2)]
    squared = (kernel[0] + kernel[1]) - (kernel[0] + 2 * kernel[1] + kernel[2]) / 2
    assert bandwidth(model, *oracles) == 1.0
    assert equivalence(model, oracles).statistic == pytest.approx(math.log(squared))
    same = equivalence(model, np.array([model, model]))
    assert same.p == 1.0 and same.statistic == pytest.approx(math.log(1e-12))


def test_equivalence_ranks_models() -> None:
    generator = np.random.default_rng(4)
    oracles = generator.normal(size=(6, 150))
    assert equivalence(generator.normal(-4.0, 1.0, 150), oracles).p == pytest.approx(1 / 7)
    assert equivalence(oracles[0], oracles[1:]).p > 1 / 7
    assert rank_test(np.array([1.0, 1.0, 0.0, 2.0])).p == 0.75
    with pytest.raises(ValueError, match="Two or more"):
        equivalence(oracles[0], oracles[:1])


def test_completeness_by_hand() -> None:
    oracles, original = np.array([[0.0, 1.0, 2.0]]), np.array([9.0, 9.0, 9.0])
    gone = completeness(np.full(3, -1e6), original, oracles)
    kept = completeness(np.full(3, 1e6), original, oracles)
    assert gone == pytest.approx(1.0) and kept == pytest.approx(0.0)
    values = [completeness(np.full(3, value), original, oracles).mean() for value in (0.0, 3.0, 6.0, 9.0)]
    assert values == sorted(values, reverse=True)


def test_others_by_hand() -> None:
    statistics = on_retain(np.array([0, 0, 5]))
    oracles = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    models = np.broadcast_to([1.0, 1.0, -99.0], (1, 2, 3))
    found = statistics(models, oracles)
    assert found["retain_shift"] == pytest.approx(-100 / 3)
    assert found["retain_shift_worst_class"] == pytest.approx(-100)
    assert (found["retain_exposed"], found["retain_harmed"]) == (0.0, pytest.approx(1 / 3))
    assert on_accuracy(np.array([[0.8, 0.9]]), np.array([0.9, 0.9]))["accuracy_test_gap"] == pytest.approx(-0.05)


def test_permutations_keep_models_whole() -> None:
    models, oracles = np.arange(8.0).reshape(2, 2, 2), np.array([[8.0, 9.0], [10.0, 11.0]])
    seen = []

    def statistics(ours, theirs):
        seen.append(sorted([*ours.reshape(-1, 2).tolist(), *theirs.tolist()]))
        return {"gap": float(ours.mean() - theirs.mean())}

    drawn = permuted(statistics, models, oracles)["gap"]
    assert drawn[0] == 3.5 - 9.5 and len(set(drawn.tolist())) > 5
    assert all(each == seen[0] for each in seen)
    assert of_oracles(statistics, oracles, 2) == {}


def test_a_jackknife_of_means_is_their_standard_error() -> None:
    models, oracles = np.array([[0.1, 0.3], [0.5, 0.7], [0.2, 0.2]]), np.array([0.4, 0.8, 0.9])
    low, high = jackknife(lambda kept: on_accuracy, models, oracles)["accuracy_test_gap"]
    error = math.sqrt(models.mean(1).var(ddof=1) / 3 + oracles.var(ddof=1) / 3)
    assert high - low == pytest.approx(2 * 4.302653 * error, rel=1e-6)
    assert math.isnan(jackknife(lambda kept: on_accuracy, models[:2], oracles)["accuracy_test_gap"][0])


def test_scores_that_cannot_be_audited_say_why() -> None:
    good = made(0, pairs=4, oracles=4, size=20, retain=5)
    speakers = made(0, pairs=4, oracles=4, size=20, retain=5, speakers=10)
    broken = good.unlearned.copy()
    broken[0, 0, 0, 0] = np.nan
    mixed = speakers.half.copy()
    mixed[0, 0] = 1 - mixed[0, 0]
    for scores, changes, words in [
        (good, {"half": good.half[:1]}, "2 pairs or more"),
        (good, {"oracle": good.oracle[:1]}, "2 oracles or more"),
        (good, {"oracle": good.oracle[0]}, "have wrong shapes"),
        (good, {"unlearned": good.unlearned[:, :, :3]}, "'unlearned' of an audit has the shape"),
        (good, {"retain_oracle": good.retain_oracle[:, :3]}, "'retain_oracle' of an audit"),
        (good, {"accuracy_test": {"original": np.ones((4, 2))}}, "no test accuracy of its oracle models"),
        (good, {"half": np.zeros_like(good.half)}, "two halves"),
        (good, {"half": good.half + 1}, "two halves"),
        (good, {"label": good.label - 9}, "is not one of the 6 outputs"),
        (good, {"unlearned": broken}, "logits of unlearned models of an audit are not finite"),
        (speakers, {"half": mixed}, "in both halves"),
    ]:
        with pytest.raises(UserError, match=words):
            replace(scores, **changes)
    one = {kind: getattr(good, kind)[..., :1] for kind in ("original", "unlearned", "oracle")}
    with pytest.raises(UserError, match="2 classes"):
        replace(good, label=np.zeros(20, dtype=int), **one)
