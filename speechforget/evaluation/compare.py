"""From score tables to one comparison: every metric of every model, beside the oracle's."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from speechforget.errors import UserError, nearest
from speechforget.evaluation.flags import DESTROYED, flags
from speechforget.evaluation.tables import MODELS, NOTHING, Metric, NoOracle, Scores, Tables, Value, chunks


def resolve(path: str) -> Metric:
    """The metric function at a dotted path such as `speechforget.evaluation.accuracy.accuracy`; UserError when there is none."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not module_name.startswith(str(error.name)):
            raise
        raise UserError(
            f"There is no module '{module_name}' for the metric '{path}': write it as package.module.function."
        ) from error
    metric = getattr(module, name, None)
    if not callable(metric):
        names = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module_name
        ]
        raise UserError(f"There is no metric '{name}' in {module_name}: {nearest(name, names)}")
    function: Metric = metric
    return function


def _evaluate(tables: Tables, model: str, metrics: Mapping[str, Metric]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for path, metric in metrics.items():
        try:
            found = metric(tables, model)
        except NoOracle:  # then only the names of what it measures can be had
            found = dict.fromkeys(metric(replace(tables, oracles=(tables.of(model),)), model), NOTHING)
        if twice := sorted(values.keys() & found.keys()):
            raise UserError(f"Two metrics give '{twice[0]}': take '{path}' or the other one off the list.")
        values.update(found)
    return values


def _check_finite(model: str, scores: Scores) -> None:
    bad = ~np.isfinite(scores.loss)
    for rows in chunks(*scores.logits.shape):
        bad[rows] |= ~np.isfinite(scores.logits[rows]).all(axis=1)
    if bad.any():
        made = (
            "train.learning_rate"
            if model != "unlearned"
            else "method.learning_rate, or whatever else makes the method's steps large"
        )
        raise UserError(
            f"The {model} model diverged: its scores of {bad.sum()} of {len(bad)} utterances are not finite, so it cannot be compared. Lower {made}."
        )


def _number(value: float) -> float | None:
    """For JSON, which knows neither nan nor infinity."""
    return float(value) if math.isfinite(value) else None


def compare(tables: Tables, metric_paths: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> metric -> value, low, high, count, gap (signed, value - oracle's value) and oracle_spread; null where there is no number.

    reason: why there is no number, where the metric says so.

    oracle_spread: the standard deviation (n - 1) of the metric over the oracles, null when there is one. For a metric that is itself relative
    to the oracle (divergences, churn, average_gap, tow), each of them is measured against the first. Without an oracle its own numbers, gaps,
    and metrics that are relative to it are null. Raises UserError where logits or losses of a model are not finite: no metric of them means anything.
    """
    for model, scores in (
        ("original", tables.original),
        *(("oracle", one) for one in tables.oracles),
        ("unlearned", tables.unlearned),
    ):
        _check_finite(model, scores)
    metrics = {str(path): resolve(str(path)) for path in metric_paths}
    values = {model: _evaluate(tables, model, metrics) for model in MODELS if model != "oracle" or tables.oracles}
    values.setdefault("oracle", dict.fromkeys(values["unlearned"], NOTHING))
    others = [_evaluate(replace(tables, unlearned=scores), "unlearned", metrics) for scores in tables.oracles[1:]]
    spread: dict[str, float] = {}
    for name, value in values["oracle"].items():
        spread[name] = (
            float(np.std([value.value, *(other[name].value for other in others)], ddof=1)) if others else math.nan
        )

    def entry(name: str, value: Value) -> dict[str, Any]:
        gap = value.value - values["oracle"][name].value
        numbers = {
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "count": value.count,
            "gap": gap,
            "oracle_spread": spread[name],
        }
        found: dict[str, Any] = {key: number if key == "count" else _number(number) for key, number in numbers.items()}
        return {**found, "reason": value.reason} if value.reason else found

    return {model: {name: entry(name, value) for name, value in values[model].items()} for model in MODELS}


def objective(result: Mapping[str, Any]) -> float:
    """What a search minimises: the mean absolute accuracy gap to the oracle on forget and on validation (remaining classes), in [0, 1].

    `result` is what `compare` returned. Never test or holdout. Infinite for a destroyed model (see `flags`), however near its gaps are. nan without
    an oracle, and without a validation subset, as forget alone would reward a ruined model.
    """
    unlearned = result["unlearned"]
    gaps = [unlearned.get(name, {}).get("gap") for name in ("accuracy_forget", "accuracy_validation")]
    if None in gaps:
        return math.nan
    return math.inf if DESTROYED in flags(result) else sum(abs(gap) for gap in gaps) / len(gaps)
