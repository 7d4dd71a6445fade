"""Error rates and score columns of transcripts, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.score_tables import make_tables

from speechforget.evaluation.accuracy import accuracy
from speechforget.evaluation.compare import compare, objective
from speechforget.evaluation.error_rates import error_rates, heard_differently, rate, worst_speakers
from speechforget.evaluation.flags import DESTROYED, UNCHANGED, flags
from speechforget.evaluation.tables import Scores, Tables
from speechforget.recognition.ctc import spoken, text_loss
from speechforget.stages.transcript_columns import counted, transcript_columns

EVALUATION = Path(__file__).parents[2] / "conf" / "evaluation" / "transcripts.yaml"
NAMES = ["", " ", "a", "b"]
ROLES = ("forget", "forget", "retain", "retain", "test", "holdout")


def scores(errors: list[list[int]], heard: list[list[int]]) -> Scores:
    """A table of six transcripts: two to forget, two others, a test and a non-member."""
    count = len(ROLES)
    chances = np.full((count, 2), math.log(0.5))
    return Scores(
        np.array(ROLES),
        np.array([role == "holdout" for role in ROLES]),
        np.zeros(count, dtype=np.int64),
        chances,
        np.full(count, math.log(2)),
        np.zeros((count, 2)),
        math.nan,
        np.array(heard, dtype=np.int16),
        np.array(errors, dtype=np.int64),
    )


PERFECT = [[0, 2, 0, 5, 9]] * 6
HEARD = [[2, 3, -1]] * 6


def tables(errors: list[list[int]], heard: list[list[int]] = HEARD, speaker: np.ndarray | None = None) -> Tables:
    best = scores(PERFECT, HEARD)
    return Tables(best, (best,), scores(errors, heard), (), 0, speaker)


def test_errors_are_added_up_before_they_are_divided() -> None:
    wrong = [[1, 2, 1, 5, 9], [0, 8, 0, 45, 9], *PERFECT[2:]]
    found = error_rates(tables(wrong), "unlearned")
    assert found["word_error_rate_forget"].value == pytest.approx(1 / 10)  # the mean of both would be 1 / 4
    assert found["character_error_rate_forget"].value == pytest.approx(1 / 50)
    assert found["character_error_rate_forget"].count == 50
    assert found["word_error_rate_retain"].value == 0 and found["word_error_rate_validation"].reason
    assert accuracy(tables(wrong), "unlearned")["accuracy_forget"].value == 0.5


def test_more_words_than_were_said_is_a_rate_above_one() -> None:
    assert counted("a", "b a b b").tolist() == [3, 1, 6, 1]
    assert counted("yes no", "yes no").tolist() == [0, 2, 0, 6]
    assert rate(np.array([3]), np.array([1])).value == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=30))
def test_an_interval_holds_its_rate_and_shrinks_with_copies(pairs: list[tuple[int, int]]) -> None:
    errors, letters = (np.array(column) for column in zip(*pairs, strict=True))
    once, often = rate(errors, letters), rate(np.tile(errors, 4), np.tile(letters, 4))
    assert once.low <= once.value <= once.high and often.value == pytest.approx(once.value)
    assert often.high - often.low <= once.high - once.low + 1e-12


def test_the_interval_of_equal_recordings_is_that_of_a_mean() -> None:
    errors, letters = np.array([0, 1, 2, 3]), np.full(4, 10)
    found, each = rate(errors, letters), errors / 10
    half = 3.182446 * each.std(ddof=1) / 2  # Student's quantile with 3 degrees of freedom
    assert found.high == pytest.approx(0.15 + half, rel=1e-6)


def test_speakers_are_the_units_where_there_are_ten() -> None:
    errors, letters = np.tile([1, 0], 20), np.full(40, 10)
    speakers = np.repeat(np.arange(10).astype(str), 4)
    assert rate(errors, letters, speakers).high == pytest.approx(0.05)  # all speakers are alike
    assert rate(errors, letters, np.repeat(["x", "y"], 20)).high > 0.06  # two are too few


def test_what_is_heard_differently_is_counted_in_letters() -> None:
    other = [[2, 3, -1], [3, -1, -1], *HEARD[2:]]
    found = heard_differently(tables(PERFECT, other), "unlearned")
    assert found["heard_differently_forget"].value == pytest.approx(1 / 10)
    assert found["heard_differently_retain"].value == 0
    assert heard_differently(tables(PERFECT), "oracle")["heard_differently_forget"].value == 0


def test_without_an_oracle_only_what_needs_it_is_missing() -> None:
    metrics = [str(path) for path in OmegaConf.load(EVALUATION).metrics]
    found = compare(replace(tables(PERFECT), oracles=()), metrics)
    assert found["unlearned"]["heard_differently_forget"]["reason"] == "there is no oracle"
    assert found["unlearned"]["word_error_rate_forget"]["value"] == 0
    beside = compare(tables(PERFECT), metrics)
    assert beside["unlearned"].keys() == found["unlearned"].keys()
    assert beside["unlearned"]["heard_differently_forget"]["gap"] == 0


def test_classes_have_no_transcripts() -> None:
    classes = make_tables()
    for metric in (error_rates, worst_speakers, heard_differently):
        assert all(value.reason == "the models give no transcripts" for value in metric(classes, "unlearned").values())


def test_flags_and_objective_read_error_rates() -> None:
    def entry(forget: float, retain: float, gap: float) -> dict:
        return {
            "character_error_rate_forget": {"value": forget, "gap": gap},
            "character_error_rate_validation": {"value": 0.3, "gap": -0.1},
            "character_error_rate_retain": {"value": retain, "gap": 0.0},
        }

    compared = {"original": entry(0.0, 0.0, 0.0), "oracle": entry(0.3, 0.01, 0.0), "unlearned": entry(0.0, 0.0, -0.3)}
    assert set(flags(compared)) == {UNCHANGED}
    assert objective(compared, "character_error_rate") == pytest.approx(0.2)
    assert set(flags({**compared, "unlearned": entry(0.3, 0.5, 0.0)})) == {DESTROYED}


def test_columns_hold_the_exact_odds_of_what_was_said() -> None:
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    texts = torch.tensor([[2, 3, 1, 2], [3, -1, -1, -1]])
    found = transcript_columns(logits, texts, NAMES, 8)
    loss = text_loss(logits.double(), texts).numpy()
    assert found["loss"] == pytest.approx(loss)
    margin = found["logits"][:, 0] - found["logits"][:, 1]
    assert margin == pytest.approx(np.log(np.exp(-loss) / (1 - np.exp(-loss))), rel=1e-4)
    assert found["heard"].shape == (2, 8) and found["label"].tolist() == [0, 0]
    assert np.array_equal(found["heard"][:, :6], spoken(logits).numpy())
    assert found["errors"][:, [1, 3, 4]].tolist() == [[2, 4, 6], [1, 1, 6]]


def test_a_certain_transcript_has_finite_odds() -> None:
    logits = torch.full((1, 2, 4), -60.0)
    logits[0, :, 2] = 60.0
    found = transcript_columns(logits, torch.tensor([[2]]), NAMES, 2)
    assert np.isfinite(found["logits"]).all() and found["errors"][0, 2] == 0
