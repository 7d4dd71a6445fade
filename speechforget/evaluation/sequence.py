"""What models show of each request of a sequence after later ones: figures against the oracle, revival, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from speechforget.evaluation.compare import compare, evaluate, resolve
from speechforget.evaluation.tables import NOTHING, Tables, Value

# Figure of a request -> 1 if a rise is a return of what was forgotten, -1 if a fall is.
FIGURES = {"accuracy_forget": 1, "loss_forget": -1, "membership_auc": 1}
DRIFT = "accuracy_test"
METRICS = (
    "speechforget.evaluation.accuracy.accuracy",
    "speechforget.evaluation.membership.auc",
    "speechforget.evaluation.sequence.loss",
)
NORMAL = 1.96  # standard errors on each side of a 95 % interval


class Cell(NamedTuple):
    """Hold a figure of one request after another one.

    after, request: numbers from 1. original, oracle, unlearned: its values, None if missing. low, high, count: of the
    unlearned model. others: values of the other oracles of the same prefix, in their order.
    """

    after: int
    request: int
    metric: str
    original: float | None
    oracle: float | None
    unlearned: float | None
    low: float | None
    high: float | None
    count: int  # type: ignore[assignment]
    others: tuple[float | None, ...]
    reason: str = ""

    @property
    def gap(self) -> float | None:
        """Return the value of the unlearned model minus the oracle's."""
        return _minus(self.unlearned, self.oracle)

    def to_json(self) -> dict[str, Any]:
        """Return the cell as JSON."""
        return {**self._asdict(), "gap": self.gap, "others": list(self.others)}


class Revival(NamedTuple):
    """Hold by how much a request came back after later ones; positive: toward remembering.

    after: the later request after which it is largest. null: the same number with each other oracle in the place of the
    unlearned models. reason: why there is no number.
    """

    request: int
    metric: str
    value: float | None
    after: int | None
    null: tuple[float, ...]
    reason: str = ""


def loss(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the mean cross-entropy on forget.

    Explanation:
        values: loss_forget
        meaning: How badly the model predicts the labels of a request, in a sequence of requests. It moves where the
            accuracy is still 100 %.
        formula: mean of -log softmax(z)_y.
        unit: nats, with a normal 95 % interval over utterances.
        aim: the oracle's value, after the same requests.
        fooled by: a model that is surer of everything; few utterances with a large loss.
        source: ours, for sequences; the loss is that of training.
    """
    scores = tables.of(model)
    chosen = scores.loss[scores.role == "forget"]
    if not len(chosen):
        return {"loss_forget": NOTHING}
    mean = float(chosen.mean())
    error = float(chosen.std(ddof=1)) / math.sqrt(len(chosen)) if len(chosen) > 1 else math.nan
    return {"loss_forget": Value(mean, mean - NORMAL * error, mean + NORMAL * error, len(chosen))}


def cells(tables: Tables, after: int, request: int) -> list[Cell]:
    """Compute `FIGURES` and `DRIFT` of one request in the models after another one. tables: `forget` is the request."""
    found = compare(tables, METRICS)
    metrics = {path: resolve(path) for path in METRICS}
    others = [evaluate(replace(tables, unlearned=each), "unlearned", metrics) for each in tables.oracles[1:]]

    def cell(name: str) -> Cell:
        mine = found["unlearned"][name]
        before, aim = (found[model][name]["value"] for model in ("original", "oracle"))
        rest = tuple(_finite(each[name].value) for each in others)
        reason = str(mine.get("reason", ""))
        return Cell(
            after, request, name, before, aim, mine["value"], mine["low"], mine["high"], mine["count"], rest, reason
        )

    return [cell(name) for name in (*FIGURES, DRIFT)]


def revivals(matrix: Sequence[Cell]) -> list[Revival]:
    """Compute for each request and figure how far the gap to the oracle moved toward remembering after later requests.

    The value is the largest of s (gap after request i - gap after its own), over later i; s is the sign in `FIGURES`.
    Source: the revival of continual unlearning, as a difference of gaps so that the oracle's own change cancels.
    """
    found = []
    for request in sorted({cell.request for cell in matrix}):
        for metric, sign in FIGURES.items():
            row = sorted((cell for cell in matrix if (cell.request, cell.metric) == (request, metric)), key=_after)
            found.append(_revival(request, metric, sign, row))
    return found


def _after(cell: Cell) -> int:
    return cell.after


def _revival(request: int, metric: str, sign: int, row: Sequence[Cell]) -> Revival:
    best = _largest(sign, [cell.gap for cell in row])
    if best is None:
        reason = "no later request" if len(row) < 2 else row[0].reason or "there is no oracle"
        return Revival(request, metric, None, None, (), reason)
    count = min(len(cell.others) for cell in row)
    nulls = (_largest(sign, [_minus(cell.others[index], cell.oracle) for cell in row]) for index in range(count))
    return Revival(request, metric, best[0], row[best[1]].after, tuple(each[0] for each in nulls if each is not None))


def _largest(sign: int, gaps: Sequence[float | None]) -> tuple[float, int] | None:
    """Return the largest signed change from the first gap, and its place; None if a gap is missing."""
    if len(gaps) < 2 or any(gap is None for gap in gaps):
        return None
    changes = sign * (np.array(gaps[1:], dtype=float) - float(gaps[0]))  # type: ignore[arg-type]
    place = int(changes.argmax())
    return float(changes[place]), place + 1


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
