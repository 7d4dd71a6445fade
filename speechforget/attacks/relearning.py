"""Relearning curves: how fast does the rest of forget come back when the model learns a few of its utterances again?

After Golatkar et al., CVPR 2020, who count steps up to a threshold. We report the curve's end and area, because many
models never reach a threshold, or reach it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from speechforget.attacks.base import PREFIX, Rows, Subject, too_few
from speechforget.batch import Batch
from speechforget.config.ranges import number, whole
from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Value, missing
from speechforget.seeding import order

DIVERGED = "fine-tuning diverged"
Curve = tuple[list[float], np.ndarray]  # accuracies before and after each step; the predictions that are right at last


class Relearning:
    """Fine-tune copies with Adam for a few steps; a fresh optimiser for each copy.

    Copies stay in evaluation mode: running batch-norm statistics are used and kept, and nothing is dropped out.
    shots: utterances of each class of forget that are learned, all in each step. draws: of them. head_shots: of the
    copies of which only the head learns. batch_size: of the copy that learns retain only. most: utterances of the rest
    of forget that are judged, drawn by the seed where there are more.
    """

    def __init__(
        self,
        *,
        shots: Sequence[int] = (1, 5, 10),
        head_shots: int = 5,
        draws: int = 3,
        steps: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        most: int = 200,
    ) -> None:
        for name, given in (("head_shots", head_shots), ("draws", draws), ("steps", steps), ("batch_size", batch_size)):
            whole({name: given}, name, 1, PREFIX)
        number({"learning_rate": learning_rate}, "learning_rate", 0.0, math.inf, PREFIX)
        self.shots, self.head_shots, self.draws, self.steps = tuple(shots), head_shots, draws, steps
        self.learning_rate, self.batch_size, self.most = learning_rate, batch_size, most

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Fine-tune copies for a few steps and draw the curve of accuracy on the rest of forget.

        Explanation:
            values: relearn_<what>_final, relearn_<what>_area
            meaning: How fast forgotten utterances come back when the model learns a few of them again: 1, 5 or 10 of
                each class, the head alone (head), or none of them but retain (retain). What returns faster than in the
                oracle was never gone.
            formula: accuracy on the rest of forget (retain: on all of forget) after the last step, and the mean height
                of its curve over the steps (trapezoid rule), averaged over draws of utterances; Adam, fresh state.
            unit: shares in [0, 1]; only relearn_retain_final has an interval (95 % Wilson), as draws share utterances.
            aim: the oracle's value.
            fooled by: rates so large that any model learns at once, or so small that none does; forget utterances that
                the oracle recognises anyway.
            source: after Golatkar et al., CVPR 2020, who count steps up to a threshold.
        """
        values: dict[str, Value] = {}
        for count in self.shots:
            values |= self._shots(subject, str(count), count, lambda copied: list(copied.parameters()))
        values |= self._shots(subject, "head", self.head_shots, lambda copied: list(copied.head.parameters()))  # type: ignore[union-attr]
        return values | self._retain(subject)

    def _shots(
        self, subject: Subject, name: str, count: int, learning: Callable[[nn.Module], list[nn.Parameter]]
    ) -> dict[str, Value]:
        curves: list[Curve] = []
        for draw in range(self.draws):
            picked, rest = subject.shots(count, "relearning", count, draw)
            if not len(rest):
                return _both(name, missing(too_few(count)))
            judged = subject.drawn(rest, self.most, "relearning")
            steps = islice(_again(subject, picked), self.steps)
            curve = self._curve(subject, steps, judged, learning)
            if curve is None:
                return _both(name, missing(DIVERGED))
            curves.append(curve)
        size = min(len(right) for _, right in curves)
        finals, areas = ([measure(curve) for curve, _ in curves] for measure in (lambda curve: curve[-1], _area))
        return {
            f"relearn_{name}_final": Value(float(np.mean(finals)), math.nan, math.nan, size),
            f"relearn_{name}_area": Value(float(np.mean(areas)), math.nan, math.nan, size),
        }

    def _retain(self, subject: Subject) -> dict[str, Value]:
        judged = subject.drawn(subject.rows["forget"], self.most, "relearning")
        drawn = order(subject.rows["retain"], subject.seed, "relearning", "retain")
        rows = np.resize(drawn, self.steps * self.batch_size)
        batches = subject.batches(rows, self.batch_size)
        curve = self._curve(subject, batches, judged, lambda copied: list(copied.parameters()))
        if curve is None:
            return _both("retain", missing(DIVERGED))
        area = Value(_area(curve[0]), math.nan, math.nan, len(judged))
        return {"relearn_retain_final": share(curve[1]), "relearn_retain_area": area}

    def _curve(
        self,
        subject: Subject,
        batches: Iterator[Batch],
        judged: Rows,
        learning: Callable[[nn.Module], list[nn.Parameter]],
    ) -> Curve | None:
        """Fine-tune a copy by one step for each batch, and judge it before and after each; None if it diverges."""
        copied = subject.copy()
        weights = [parameter for parameter in learning(copied) if parameter.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        try:
            right = subject.right(judged)
            curve = [float(right.mean())]
            for batch in batches:
                copied.zero_grad()
                cross_entropy(copied(*batch.inputs).logits, batch.labels).backward()
                optimizer.step()
                right = subject.right(judged, copied)
                curve.append(float(right.mean()))
        except FloatingPointError:
            return None
        return curve, right


def _again(subject: Subject, rows: Rows) -> Iterator[Batch]:
    """Yield all of the rows in one batch, without end."""
    batch = next(subject.batches(rows, len(rows)))
    while True:
        yield batch


def _area(curve: Sequence[float]) -> float:
    return float(np.trapezoid(curve)) / max(1, len(curve) - 1)


def _both(name: str, value: Value) -> dict[str, Value]:
    return {f"relearn_{name}_final": value, f"relearn_{name}_area": value}
