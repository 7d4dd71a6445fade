"""The verdict from a comparison alone: each word is reached, and no word says more than the numbers do."""

import pytest
from support.audits import compared, words

from speechforget.evaluation.audit.catalogue import QUESTIONS
from speechforget.evaluation.verdict import LITTLE, OVER, STATE, UNDER, WITHIN, verdict

REQUEST, ORACLE, INSIDE, RETURNS, OTHERS = QUESTIONS.values()


@pytest.mark.parametrize(
    ("name", "numbers", "question", "word"),
    [
        ("probe_word_max", (0.9, 0.3, 0.9), INSIDE, UNDER),
        ("probe_word_max", (0.9, 0.3, 0.31), INSIDE, WITHIN),
        ("probe_word_max", (0.9, 0.3, 0.1), INSIDE, OVER),
        ("probe_word_max", (0.31, 0.3, 0.31), INSIDE, LITTLE),
        ("verification_eer", (0.05, 0.3, 0.06), INSIDE, UNDER),
        ("relearn_5_area", (0.9, 0.4, 0.8), RETURNS, UNDER),
        ("int8_accuracy_forget", (0.9, 0.4, 0.41), RETURNS, WITHIN),
        ("noise_20db_accuracy_forget", (0.9, 0.4, 0.1), RETURNS, OVER),
        ("membership_auc", (0.7, 0.5, 0.7), REQUEST, UNDER),
        ("membership_auc", (0.7, 0.5, 0.3), REQUEST, OVER),
        ("membership_auc", (0.7, 0.5, 0.5), REQUEST, LITTLE),  # averages never show that nothing is left
        ("accuracy_retain", (0.99, 0.98, 0.5), OTHERS, OVER),
        ("accuracy_retain", (0.99, 0.98, 0.98), OTHERS, WITHIN),
        ("told_from_oracles", (0.9, 0.5, 0.5), ORACLE, WITHIN),
        ("told_from_oracles", (0.9, 0.5, 0.8), ORACLE, OVER),
        ("told_from_oracles", (0.55, 0.5, 0.5), ORACLE, LITTLE),
        ("accuracy_forget", (0.9, 0.5, 0.8), ORACLE, UNDER),
        ("accuracy_forget", (0.9, 0.5, 0.5), ORACLE, LITTLE),  # a mean alone never shows that nothing is left
    ],
)
def test_a_comparison_with_oracles_is_judged(name: str, numbers: tuple, question: str, word: str) -> None:
    answer = next(each for each in verdict(compared(**{name: numbers})) if each.question == question)
    assert answer.word == word
    assert name in answer.evidence


def test_a_signed_number_says_on_which_side_a_model_differs() -> None:
    found = compared(told_from_oracles=(0.9, 0.5, 0.8), completeness_forget=(0.1, 0.8, 0.3))
    assert words(verdict(found))[ORACLE] == UNDER
    found = compared(told_from_oracles=(0.9, 0.5, 0.8), completeness_forget=(0.1, 0.8, 0.99))
    assert words(verdict(found))[ORACLE] == OVER


def test_one_oracle_is_too_little_but_hints() -> None:
    found = compared(oracles=1, membership_auc=(0.54, 0.5, 0.37), probe_word_max=(0.9, 0.3, 0.9))
    answers = verdict(found)
    assert set(words(answers).values()) == {LITTLE}
    assert "run with evaluation=audit" in answers[0].sentence and "0.37" in answers[0].sentence
    assert "run with evaluation=full" in answers[2].sentence
    assert "whole classes cannot be exchanged" in verdict(found, forgotten=True)[0].sentence


def test_what_was_not_measured_is_named() -> None:
    """Three oracles are enough, but the numbers that tell a model from them are not in `evaluation=quick`."""
    sentence = verdict(compared(accuracy_forget=(0.9, 0.5, 0.5)))[1].sentence
    assert "because told_from_oracles and equivalence_distance were not measured" in sentence
    assert "fewer than 3 oracles" in verdict(compared(oracles=2, accuracy_forget=(0.9, 0.5, 0.5)))[1].sentence


def test_many_numbers_make_no_false_alarms() -> None:
    """One of ten numbers of an oracle is far by chance: 2.5 spreads is within the band of ten."""
    values = {f"probe_word_{layer}": (0.9, 0.3, 0.3) for layer in range(9)}
    found = compared(**values, probe_word_9=(0.9, 0.3, 0.35))
    assert words(verdict(found))[INSIDE] == WITHIN
    alone = compared(probe_word_9=(0.9, 0.3, 0.36))
    assert words(verdict(alone))[INSIDE] == UNDER


def test_oracles_that_agree_exactly_have_a_band() -> None:
    found = compared(spread=0.0, relearn_1_area=(0.9, 0.0, 0.01))
    assert words(verdict(found))[RETURNS] == WITHIN


def test_a_share_of_utterances_is_no_finer_than_one_of_them() -> None:
    """Three oracles without an error on 1,300 utterances do not make three errors evidence of harm."""
    found = compared(oracles=3, spread=0.0, accuracy_retain=(1.0, 1.0, 0.998))
    found["unlearned"]["accuracy_retain"]["count"] = 1300
    assert words(verdict(found))[OTHERS] == WITHIN
    found["unlearned"]["accuracy_retain"]["value"] = 0.98
    assert words(verdict(found))[OTHERS] == OVER


def test_what_the_original_lacks_is_a_mark_of_the_method_and_no_rest() -> None:
    answer = verdict(compared(probe_word_max=(0.31, 0.3, 0.9)))[2]
    assert answer.word == OVER and "neither oracles nor the original have" in answer.sentence
    assert words(verdict(compared(membership_auc=(0.5, 0.5, 0.7))))[REQUEST] == OVER


def test_a_broken_or_idle_method_is_said_first() -> None:
    destroyed = verdict(compared(accuracy_forget=(1.0, 0.9, 0.1), accuracy_retain=(1.0, 1.0, 0.2)))
    assert destroyed[0].question == STATE and destroyed[0].word == OVER and "destroys" in destroyed[0].sentence
    idle = verdict(compared(accuracy_forget=(1.0, 0.0, 1.0), accuracy_retain=(1.0, 1.0, 1.0)))
    assert idle[0].word == UNDER and "does nothing" in idle[0].sentence
    assert idle[0].to_json()["evidence"] == ["accuracy_forget", "accuracy_retain"]
    assert [each.question for each in idle[1:]] == list(QUESTIONS.values())


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((14.0, 0.1, 12.0), UNDER),
        ((14.0, 0.1, -6.0), OVER),
        ((14.0, 0.1, 2.0), WITHIN),  # 2.24 is the bound of one test with half of the false alarms
        ((2.0, 0.1, 0.5), LITTLE),
    ],
)
def test_planted_keys_answer_for_the_request(numbers: tuple, word: str) -> None:
    answer = verdict(compared(oracles=1, key_rank_z=numbers))[0]
    assert answer.word == word and "key_rank_z" in answer.evidence
    assert answer.sentence.startswith("By planted keys") and "By averages" in answer.sentence


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ({"neighbour_share_forget": (0.0, 0.5, 0.1)}, OVER),
        ({"neighbour_share_forget": (0.0, 0.5, 0.9)}, OVER),
        ({"neighbour_share_forget": (0.0, 0.5, 0.5)}, LITTLE),
        ({"neighbour_share_forget": (0.0, 0.5, 0.1), "accuracy_forget": (1.0, 0.0, 0.4)}, UNDER),
        ({"neighbour_js": (0.3, 0.05, 0.4)}, OVER),
        ({"neighbour_js": (0.3, 0.2, 0.0)}, LITTLE),
    ],
)
def test_where_a_forgotten_class_went_is_evidence(numbers: dict, word: str) -> None:
    answer = next(each for each in verdict(compared(**numbers), forgotten=True) if each.question == REQUEST)
    assert answer.word == word and set(answer.evidence) & set(numbers)


def test_non_members_that_were_heard_make_averages_void() -> None:
    answer = verdict(compared(nonmembers_auc=(0.5, 0.5, 0.9), membership_auc=(0.7, 0.5, 0.5)))[0]
    assert answer.word == OVER and "heard the non-members" in answer.sentence
    assert answer.evidence == ("nonmembers_auc",)


def missing(found, name, reason):
    """Let a number be asked for and not computed."""
    for model in ("original", "oracle", "unlearned"):
        found[model][name] = {"value": None, "reason": reason}
    return found


def test_what_could_not_be_computed_is_not_asked_for_again() -> None:
    few = "fewer than 10 utterances are to be forgotten"
    found = missing(compared(accuracy_forget=(0.9, 0.5, 0.5)), "told_from_oracles", few)
    oracle, inside = verdict(missing(found, "probe_membership_max", few))[1:3]
    for answer in (oracle, inside):
        assert answer.word == LITTLE and few in answer.sentence and "run with" not in answer.sentence


@pytest.mark.parametrize(
    ("spread", "unlearned", "word"), [(0.02, 0.95, WITHIN), (0.1, 0.95, LITTLE), (0.1, 0.3, OVER), (0.4, 0.0, LITTLE)]
)
def test_oracles_that_differ_too_much_tell_of_no_harm(spread: float, unlearned: float, word: str) -> None:
    """With a spread of 0.4, a model that knows nothing would lie within the band."""
    answer = verdict(compared(spread=spread, accuracy_retain=(0.95, 0.95, unlearned)))[-1]
    assert answer.question == OTHERS and answer.word == word
    narrow = compared(accuracy_test=(0.95, 0.95, 0.94))
    wide = compared(spread=spread, accuracy_retain=(0.95, 0.95, 0.95))
    answer = verdict({model: {**wide[model], **narrow[model]} for model in wide})[-1]
    assert answer.word == WITHIN and ("accuracy_retain" in answer.evidence) == (spread == 0.02)
