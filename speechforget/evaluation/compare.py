"""Compute every metric for every model, and its gap to the oracle."""

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
    """Import the metric function at a dotted path such as `speechforget.evaluation.accuracy.accuracy`.

    Raises UserError if the module or the function does not exist.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not module_name.startswith(str(error.name)):
            raise
        raise UserError(
            f"There is no module '{module_name}' for the metric '{path}': write the metric as package.module.function."
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
        except NoOracle:
            # Without an oracle only the names are known: the model stands in for the oracle to list them.
            found = dict.fromkeys(metric(replace(tables, oracles=(tables.of(model),)), model), NOTHING)
        if twice := sorted(values.keys() & found.keys()):
            raise UserError(f"Two metrics give '{twice[0]}': remove '{path}' or the other metric from the list.")
        values.update(found)
    return values


def _check_finite(model: str, scores: Scores) -> None:
    bad = ~np.isfinite(scores.loss)
    for rows in chunks(*scores.logits.shape):
        bad[rows] |= ~np.isfinite(scores.logits[rows]).all(axis=1)
    if bad.any():
        cause = "train.learning_rate"
        if model == "unlearned":
            cause = "method.learning_rate, or another option that makes the method's steps large"
        raise UserError(
            f"The {model} model diverged: its scores of {bad.sum()} of {len(bad)} utterances are not finite, "
            f"so it cannot be compared. Lower {cause}."
        )


def _number(value: float) -> float | None:
    """Convert to JSON, which has neither nan nor infinity."""
    return float(value) if math.isfinite(value) else None


def compare(
    tables: Tables, metric_paths: Sequence[str], measured: Mapping[str, Sequence[Mapping[str, Value]]] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute all metrics: model -> metric -> value, low, high, count, gap, oracle_spread and sometimes reason.

    gap: signed, value minus the oracle's value. A missing number is null; `reason` says why, if the metric gives one.

    oracle_spread: the standard deviation (n - 1) of the metric over the oracles, null for a single oracle. A metric
    that is itself relative to the oracle (divergences, churn, average_gap, tow) measures each oracle against the
    first one.

    Without an oracle, its own numbers, all gaps, and metrics that are relative to it are null.

    measured: values that attacks measured in the models themselves: one entry for original and for unlearned, and one
    for each oracle of `tables`, in their order. They stand beside the metrics.

    Raises UserError if a model has logits or losses that are not finite, because no metric of them is meaningful.
    """
    for model, scores in (
        ("original", tables.original),
        *(("oracle", one) for one in tables.oracles),
        ("unlearned", tables.unlearned),
    ):
        _check_finite(model, scores)
    metrics = {str(path): resolve(str(path)) for path in metric_paths}
    values = {model: _evaluate(tables, model, metrics) for model in MODELS if model != "oracle" or tables.oracles}
    others = [_evaluate(replace(tables, unlearned=scores), "unlearned", metrics) for scores in tables.oracles[1:]]
    for model, (first, *more) in (measured or {}).items():
        if model not in values:
            continue
        for own, found in zip([values[model], *others], [first, *more], strict=model == "oracle"):
            if twice := sorted(own.keys() & found.keys()):
                raise UserError(f"An attack and a metric give '{twice[0]}': remove one of them from evaluation.")
            own.update(found)
    values.setdefault("oracle", dict.fromkeys(values["unlearned"], NOTHING))
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
    """Compute what a search minimises: the mean absolute accuracy gap to the oracle on forget and validation.

    In [0, 1]. result: from `compare`. Validation holds the remaining classes; test and holdout are never used.
    Infinite for a destroyed model (see `flags`), whatever its gaps are. nan without an oracle or without a validation
    subset, because forget alone would reward a destroyed model.
    """
    unlearned = result["unlearned"]
    gaps = [unlearned.get(name, {}).get("gap") for name in ("accuracy_forget", "accuracy_validation")]
    if None in gaps:
        return math.nan
    return math.inf if DESTROYED in flags(result) else sum(abs(gap) for gap in gaps) / len(gaps)
