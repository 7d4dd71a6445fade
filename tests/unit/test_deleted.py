"""What models before and after a request give away: closed forms, the null between oracles, and planted deletion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.score_tables import make_tables

from speechforget.evaluation.compare import compare
from speechforget.evaluation.deleted import NAMES, SAME, deleted_found
from speechforget.evaluation.tables import Scores, Tables

METRIC = "speechforget.evaluation.deleted.deleted_found"


def raised(scores: Scores, rows: np.ndarray, by: float) -> Scores:
    """Raise the logit of the label of some rows: the margin rises by as much."""
    logits = scores.logits.copy()
    logits[rows, scores.label[rows]] += by
    return replace(scores, logits=logits)


def after(tables: Tables, forget: float, nonmembers: float, retain: float = 0.0) -> Tables:
    """Return tables whose unlearned model is the original, except for what it rose by in three subsets."""
    model, subsets = tables.original, tables.subsets()
    for name, by in (("forget", forget), ("nonmembers", nonmembers), ("retain", retain)):
        model = raised(model, np.flatnonzero(subsets[name]), by)
    return replace(tables, unlearned=model, speaker=None)


@pytest.mark.parametrize(
    ("forget", "nonmembers", "area", "rate"), [(-2, 0, 1, 1), (0, -2, 0, 0), (0, 0, 0.5, 0), (3, 4, 1, 1)]
)
def test_what_fell_most_is_found(forget: float, nonmembers: float, area: float, rate: float) -> None:
    tables = after(make_tables(rows=900), forget, nonmembers)
    found = deleted_found(tables, "unlearned")
    assert found["deleted_found_auc"].value == pytest.approx(area, abs=1e-9)
    assert found["deleted_found_tpr_1_in_100"].value == rate
    assert found["deleted_found_auc"].count == tables.subsets()["nonmembers"].sum() >= 100


@settings(deadline=None, max_examples=20)
@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 50))
def test_retained_recordings_are_other_candidates(forget: float, retain: float, seed: int) -> None:
    found = deleted_found(after(make_tables(seed=seed, rows=200), forget, 0.0, retain), "unlearned")
    gap = retain - forget
    expected = 0.5 if abs(gap) < 1e-6 else float(gap > 0)
    if abs(gap) < 1e-12 or abs(gap) > 1e-6:  # between, rounding of margins decides
        assert found["deleted_found_in_training_auc"].value == pytest.approx(expected, abs=0.5 if gap == 0 else 1e-9)


def test_exact_deletion_is_found_too_and_nothing_between_oracles() -> None:
    found = compare(make_tables(rows=1500, oracles=3), [METRIC])
    oracle, unlearned = found["oracle"], found["unlearned"]
    assert oracle["deleted_found_auc"]["low"] > 0.6  # the tables are drawn as if the original knew forget
    assert unlearned["deleted_found_auc"]["gap"] == pytest.approx(
        unlearned["deleted_found_auc"]["value"] - oracle["deleted_found_auc"]["value"]
    )
    nothing = oracle["deleted_found_nothing"]
    assert 0.5 <= nothing["value"] < 0.58 < oracle["deleted_found_auc"]["value"] and nothing["count"] == 6


def test_oracles_that_agree_show_that_nothing_was_deleted() -> None:
    tables = make_tables(oracles=1)
    value = deleted_found(replace(tables, oracles=tables.oracles * 3), "oracle")["deleted_found_nothing"]
    assert value.value == 0.5 and value.count == 6


def test_what_cannot_be_told_has_a_reason() -> None:
    tables = make_tables(rows=200)
    assert {value.reason for value in deleted_found(tables, "original").values()} == {SAME}
    found = deleted_found(tables, "unlearned")
    assert "fewer than 2 oracles" in found[NAMES[3]].reason and "needs 100 non-members" in found[NAMES[1]].reason
    alone = make_tables(rows=200, roles=("forget", "retain", "validation", "test"), oracles=2)
    found = deleted_found(alone, "unlearned")
    assert found[NAMES[0]].reason and found[NAMES[1]].reason and found[NAMES[3]].reason
    assert 0 <= found[NAMES[2]].value <= 1
