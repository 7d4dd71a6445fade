"""The figures of an audit, and the verdict: planted cheats are caught, oracles pass, every word is reached."""

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.audits import compared, made, words

from speechforget.evaluation.audit import against_oracles
from speechforget.evaluation.audit import figures as audit_figures
from speechforget.evaluation.audit.catalogue import ABOUT, QUESTIONS, about
from speechforget.evaluation.audit.figures import Figure, figures
from speechforget.evaluation.verdict import LITTLE, OVER, UNDER, WITHIN, WORDS, verdict

NEVER = ("prove", "certif", "complian", "guarantee")


@pytest.fixture(autouse=True, scope="module")
def few_oracles_in_their_place():
    """A third of the draws for the bands of oracles: a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_figures, "ASSIGNMENTS", 30)
        patch.setattr(against_oracles, "SPLITS", 30)
        yield


@cache
def audited(seed=0, **changes):
    """Figures of six pairs and oracles, which give p-values, in a second."""
    return tuple(figures(made(seed, **{"pairs": 6, "oracles": 6, **changes})))


def of(found, name, model="unlearned"):
    return next(figure for figure in found if (figure.name, figure.model) == (name, model))


REQUEST, ORACLE, INSIDE, RETURNS, OTHERS = QUESTIONS.values()


def test_every_figure_is_complete() -> None:
    found = audited()
    assert len({(figure.name, figure.model) for figure in found}) == len(found)
    assert {about(figure.name) for figure in found} == set(ABOUT.values())
    for figure in found:
        assert figure.model in {"original", "unlearned", "oracle"} and figure.question and figure.direction
        assert math.isfinite(figure.value) or figure.reason
        assert math.isfinite(figure.p) or figure.reason or figure.model == "oracle"
        assert not figure.low > figure.value and not figure.high < figure.value
        assert json.loads(json.dumps(figure.to_json(), allow_nan=False))
        assert str(Figure.from_json(figure.to_json())) == str(figure)


def test_figures_depend_on_their_seed_alone() -> None:
    small = {"pairs": 4, "oracles": 4, "size": 60}
    assert str(figures(made(0, **small), 3)) == str(figures(made(0, **small), 3))


def test_known_models_are_found_and_oracles_are_not() -> None:
    found = audited()
    for name in ("swap_auc_margin", "swap_auc_informed", "per_utterance_auc", "told_from_oracles_auc"):
        assert of(found, name, "original").value > 0.6 and of(found, name, "original").p < 0.05
        assert of(found, name).null_low < 0.5 < of(found, name).null_high
        assert of(found, name, "oracle").value == pytest.approx(0.5, abs=0.02)
    assert of(found, "exposure", "original").value == pytest.approx(2.0, abs=0.2)
    assert of(found, "retain_exposed").value == pytest.approx(0.05, abs=0.03)
    assert of(found, "accuracy_test_gap").units == 0


def test_few_pairs_show_intervals_only() -> None:
    figure = of(audited(pairs=4, oracles=4, size=60), "per_utterance_auc")
    assert math.isnan(figure.p) and "4 pairs cannot give one below 0.125" in figure.reason
    assert figure.low < figure.value < figure.high and figure.null_low < figure.null_high
    assert words(verdict({}, audited(pairs=3, oracles=4, size=60)))[REQUEST] == LITTLE
    assert "oracles" in of(audited(pairs=4, oracles=3, size=60), "energy_distance", "oracle").reason


def test_rates_need_negatives() -> None:
    found = audited(pairs=4, oracles=4, size=60)
    assert math.isfinite(of(found, "per_utterance_tpr_at_1_percent").value)
    assert of(found, "per_utterance_tpr_at_0.1_percent").reason == "too few negatives: 240, 1000 are needed"
    found = audited(pairs=4, oracles=4, speakers=8, size=40)
    assert "too few units" in of(found, "per_utterance_auc").reason
    assert words(verdict({}, found))[REQUEST] == LITTLE


def test_missing_parts_are_said() -> None:
    scores = made(0, pairs=4, oracles=4, size=40, retain=0)
    tested = {kind: np.full_like(values, np.nan) for kind, values in scores.accuracy_test.items()}
    found = figures(replace(scores, accuracy_test=tested))
    assert of(found, "accuracy_test_gap").reason == "there is no test subset"
    assert of(found, "retain_shift").reason == "no retain utterances were scored"
    assert words(verdict({}, found))[OTHERS] == LITTLE


CHEATS = {
    "nothing": ({"kept": 2.0}, {UNDER}),
    "half": ({"kept": 1.0}, {UNDER}),
    "over": ({"kept": -3.0}, {OVER}),
    "ascent": ({"kept": -0.2, "each": 3.0}, {OVER, UNDER}),
    "speakers": ({"kept": 2.0, "speakers": 40}, {UNDER}),
    "four": ({"kept": 2.0, "pairs": 4, "oracles": 4}, {UNDER}),
    "label leak": ({"leak": True}, {UNDER, OVER}),
}
# Trained on what attacks take for unheard: the request looks like it, and only oracles tell.
NONMEMBERS = {"kept": 2.0, "nonmembers": 2.0}


@pytest.mark.parametrize(
    "cheat", [pytest.param(each, marks=pytest.mark.slow) if each in {"half", "four"} else each for each in CHEATS]
)
def test_a_cheat_is_caught(cheat: str) -> None:
    changes, expected = CHEATS[cheat]
    answers = words(verdict({}, audited(2, **changes)))
    assert answers[REQUEST] in expected and answers[ORACLE] in expected
    assert answers[OTHERS] == WITHIN


def test_training_on_non_members_is_told_by_oracles() -> None:
    found = audited(2, **NONMEMBERS)
    assert of(found, "swap_auc_margin").value == pytest.approx(0.5, abs=0.05)
    assert words(verdict({}, found))[ORACLE] == UNDER


@pytest.mark.nightly
def test_training_on_non_members_is_told_by_oracles_in_19_of_20_seeds() -> None:
    found = [words(verdict({}, figures(made(seed, **NONMEMBERS))))[ORACLE] for seed in range(20)]
    print("\n", "non-members", Counter(found))  # pytest -s
    assert found.count(UNDER) >= 19


def test_gradient_ascent_looks_perfect_by_averages_only() -> None:
    found = audited(2, kept=-0.2, each=3.0)
    assert of(found, "swap_auc_margin").value == pytest.approx(0.5, abs=0.05)
    assert of(found, "per_utterance_auc").value > 0.8
    assert of(found, "strongest_attack").p <= 0.05


@pytest.mark.slow
def test_oracles_are_within() -> None:
    """Each word is wrong for one oracle in twenty by chance, so one of nine may be."""
    found = [words(verdict({}, audited(seed, size=60))) for seed in (3, 4, 5)]
    assert sum(answers[question] == WITHIN for answers in found for question in (REQUEST, ORACLE, OTHERS)) >= 8


def test_harm_and_exposure_of_others_are_told() -> None:
    assert words(verdict({}, audited(2, size=60, harm=1.0)))[OTHERS] == OVER
    assert words(verdict({}, audited(2, size=60, harm=-1.0)))[OTHERS] == UNDER


def test_attacks_that_do_not_find_the_original_say_nothing() -> None:
    answer = verdict({}, audited(2, memory=0.0))[0]
    assert answer.word == LITTLE and "do not find the original" in answer.sentence
    hidden = verdict({}, audited(2, memory=0.0, kept=-3.0))[0]
    assert hidden.word == LITTLE and "Yet forgotten recordings stand out" in hidden.sentence


def test_a_threshold_is_compared_with_the_upper_bound() -> None:
    found = audited(2)
    assert "below the threshold you set" in verdict({}, found, threshold=0.5)[0].sentence
    assert "not below the threshold you set" in verdict({}, found, threshold=0.001)[0].sentence


def test_sentences_promise_nothing() -> None:
    every = [audited(2, **CHEATS[cheat][0]) for cheat in ("nothing", "over", "ascent")]
    every += [audited(2), audited(2, memory=0.0), ()]
    for found in every:
        for answer in verdict({}, found):
            assert answer.word in WORDS and answer.sentence.endswith(".")
            assert not any(word in answer.sentence.lower() for word in NEVER)
            assert answer.strength in {"none", "weak", "moderate", "strong"}


def answers_of(seeds: int, **changes: float) -> dict[str, Counter[str]]:
    found = [words(verdict({}, figures(made(seed, **changes)))) for seed in range(seeds)]
    counted = {question: Counter(answers[question] for answers in found) for question in (REQUEST, ORACLE)}
    print("\n", changes, counted)  # pytest -s
    return counted


MISSED = pytest.mark.xfail(strict=True, reason="a leak mends few utterances: question 1 tells it in 18 of 20 seeds")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "cheat", [pytest.param(each, marks=MISSED) if each == "label leak" else each for each in CHEATS]
)
def test_cheats_are_caught_in_19_of_20_seeds(cheat: str) -> None:
    changes, expected = CHEATS[cheat]
    for counted in answers_of(20, **changes).values():
        assert sum(counted[word] for word in expected) >= 19


@pytest.mark.nightly
def test_oracles_tell_a_label_leak_in_19_of_20_seeds() -> None:
    changes, expected = CHEATS["label leak"]
    assert sum(answers_of(20, **changes)[ORACLE][word] for word in expected) >= 19


@pytest.mark.nightly
@pytest.mark.parametrize("changes", [{}, {"speakers": 40}, {"common": 0.5}], ids=["alike", "speakers", "common"])
def test_nineteen_of_twenty_oracles_pass(changes: dict[str, float]) -> None:
    """A word is wrong for 5 % of oracles; of 200, this allows three standard errors more."""
    for counted in answers_of(200, **changes).values():
        assert counted[WITHIN] >= 200 * 0.95 - 3 * math.sqrt(200 * 0.95 * 0.05)


def test_this_model_may_differ_where_its_method_does_not() -> None:
    found = compared(told_from_oracles=(0.9, 0.5, 0.9))
    answer = verdict(found, audited(3, size=60))[1]
    assert answer.word == OVER and answer.sentence.startswith("Of this model alone")
    assert "Unlearned models were not told apart" in answer.sentence


def test_planted_keys_need_no_oracle_and_stand_beside_an_audit() -> None:
    alone = compared(key_rank_z=(14.0, None, 12.0), key_gradient_z=(1.0, None, 0.2))
    assert words(verdict(alone))[REQUEST] == UNDER
    answer = verdict(alone, audited(3, size=60))[0]
    assert answer.word == UNDER and "Of its method" in answer.sentence and answer.strength == "strong"
    pushed = compared(key_rank_z=(14.0, None, -9.0), membership_auc=(0.7, 0.5, 0.7))
    assert words(verdict(pushed))[REQUEST] == UNDER  # averages show a rest
