"""Figures of a sequence: closed forms of revival, its null, and what a cell holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.score_tables import make_scores

from speechforget.evaluation.sequence import FIGURES, Cell, cells, revivals
from speechforget.evaluation.tables import Tables


def cell(after: int, unlearned: float | None, oracle: float | None, others: tuple[float, ...] = (), **more) -> Cell:
    told = {"request": 1, "metric": "accuracy_forget", **more}
    return Cell(after, told["request"], told["metric"], 1.0, oracle, unlearned, None, None, 9, others)


def found(matrix: list[Cell], metric: str = "accuracy_forget"):
    return next(each for each in revivals(matrix) if each.metric == metric and each.request == 1)


def test_revival_is_the_largest_change_of_the_gap() -> None:
    # Gaps: 0.0, +0.3, +0.1. The oracle's own change cancels.
    matrix = [cell(1, 0.5, 0.5), cell(2, 0.9, 0.6), cell(3, 0.7, 0.6)]
    one = found(matrix)
    assert one.value == pytest.approx(0.3) and one.after == 2 and one.null == ()
    assert found(list(reversed(matrix))) == one


def test_a_falling_loss_is_a_revival() -> None:
    matrix = [cell(1, 3.0, 1.0, metric="loss_forget"), cell(2, 1.5, 1.0, metric="loss_forget")]
    assert found(matrix, "loss_forget").value == pytest.approx(1.5)
    assert FIGURES["loss_forget"] == -1 and FIGURES["accuracy_forget"] == FIGURES["membership_auc"] == 1


def test_the_null_puts_other_oracles_in_the_place_of_models() -> None:
    matrix = [cell(1, 0.5, 0.5, (0.5, 0.6)), cell(2, 0.9, 0.6, (0.65, 0.5))]
    assert found(matrix).null == pytest.approx((0.05, -0.2))


def test_an_oracle_in_the_place_of_the_models_has_no_revival() -> None:
    matrix = [cell(1, 0.5, 0.5), cell(2, 0.6, 0.6)]
    assert found(matrix).value == 0.0


def test_missing_numbers_have_a_reason() -> None:
    assert found([cell(1, 0.5, 0.5)]).reason == "no later request"
    assert found([cell(1, 0.5, None), cell(2, 0.5, None)]).reason == "there is no oracle"


def test_cells_hold_the_models_and_the_other_oracles() -> None:
    role = np.array(["forget"] * 4 + ["retain"] * 4 + ["holdout"] * 4 + ["test"] * 4)
    label = np.arange(16) % 2
    right, wrong = (make_scores(role, label, np.eye(2)[answer] * 3) for answer in (label, 1 - label))
    tables = Tables(right, (wrong, right), replace(right), (), 0)
    by_metric = {each.metric: each for each in cells(tables, 2, 1)}
    one = by_metric["accuracy_forget"]
    assert (one.original, one.oracle, one.unlearned, one.others) == (1.0, 0.0, 1.0, (1.0,))
    assert one.gap == 1.0 and one.count == 4
    assert by_metric["loss_forget"].unlearned == pytest.approx(float(right.loss[:4].mean()))
    assert by_metric["membership_auc"].unlearned is not None and by_metric["accuracy_test"].unlearned == 1.0
