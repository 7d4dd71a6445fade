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
from speechforget.evaluation.tables import MODELS, Metric, NoOracle, Scores, Tables, Value, chunks, missing

WITHOUT_ORACLE = missing("there is no oracle")
TOLD, EXPOSED, LETTERS = "told_from_oracles", "exposure_forget", "character_error_rate"
FEWEST_ORACLES = 3  # for a band of oracles against oracles


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


def evaluate(tables: Tables, model: str, metrics: Mapping[str, Metric]) -> dict[str, Value]:
    """Compute all metrics of a model. Raises UserError if two of them give the same name."""
    values: dict[str, Value] = {}
    for path, metric in metrics.items():
        try:
            found = metric(tables, model)
        except NoOracle:
            # Without an oracle only the names are known: the model stands in for the oracle to list them.
            found = dict.fromkeys(metric(replace(tables, oracles=(tables.of(model),)), model), WITHOUT_ORACLE)
        if twice := sorted(values.keys() & found.keys()):
            raise UserError(f"Two metrics give '{twice[0]}': remove '{path}' or the other metric from the list.")
        values.update(found)
    return values


def _nulls(tables: Tables, metrics: Mapping[str, Metric]) -> dict[str, list[float]]:
    """Measure every metric with each oracle in the unlearned model's place: name -> numbers, empty for one oracle.

    A metric that is relative to the oracle gives a number for each ordered pair of oracles; others give one for each.
    """
    found: dict[str, list[float]] = {}
    for place, scores in enumerate(tables.oracles if len(tables.oracles) > 1 else ()):
        others = tables.oracles[:place] + tables.oracles[place + 1 :]
        alone = replace(tables, unlearned=scores, oracles=())
        for metric in metrics.values():
            try:
                measured = [metric(alone, "unlearned")]
            except NoOracle:
                # Two oracles are one pair: its two orders would give a spread of 0 where the metric is symmetric.
                starts = range(len(others) if len(others) > 1 or place == 0 else 0)
                if getattr(metric, "beside_all", False):
                    starts = starts[:1]
                turns = [(*others[start:], *others[:start]) for start in starts]
                measured = [metric(replace(alone, oracles=turn), "unlearned") for turn in turns]
            for values in measured:
                for name, value in values.items():
                    found.setdefault(name, []).append(value.value)
    return found


def _band(numbers: Sequence[float], oracles: int) -> dict[str, float]:
    """Return spread, smallest and largest of the numbers of oracles; nan where there are too few oracles."""
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan
    enough = numbers and oracles >= FEWEST_ORACLES
    low, high = (float(np.min(numbers)), float(np.max(numbers))) if enough else (math.nan, math.nan)
    return {"oracle_spread": spread, "null_low": low, "null_high": high}


def _add_measured(values: dict[str, Value], found: Mapping[str, Value]) -> None:
    """Add what attacks measured in a model to its metrics."""
    if twice := sorted(values.keys() & found.keys()):
        raise UserError(f"An attack and a metric give '{twice[0]}': remove one of them from evaluation.")
    values.update(found)


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

    oracles: how many there are. null_low, null_high: smallest and largest value with an oracle in the model's place,
    null for fewer than `FEWEST_ORACLES`. oracle_spread: the standard deviation (n - 1) of these values, null for one
    oracle. A metric that is itself relative to the oracle (divergences, churn, average_gap, tow) measures each oracle
    against each of the others, so that no 0 of an oracle against itself enters.

    The band is no interval: a further oracle lies outside that of K others with probability 2 / (K + 1).

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
    values = {model: evaluate(tables, model, metrics) for model in MODELS if model != "oracle" or tables.oracles}
    nulls = _nulls(tables, metrics)
    for model, found in (measured or {}).items():
        if len(found) != (len(tables.oracles) if model == "oracle" else 1):
            raise ValueError(f"attacks measured {len(found)} models as {model}")
        if model in values:
            _add_measured(values[model], found[0])
    for each in (measured or {}).get("oracle", ()):
        for name, value in each.items():
            nulls.setdefault(name, []).append(value.value)
    values.setdefault("oracle", dict.fromkeys(values["unlearned"], WITHOUT_ORACLE))

    def entry(name: str, value: Value) -> dict[str, Any]:
        gap = value.value - values["oracle"][name].value
        numbers = {
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "count": value.count,
            "gap": gap,
            **_band(nulls.get(name, []), len(tables.oracles)),
            "oracles": len(tables.oracles),
        }
        found: dict[str, Any] = {
            key: number if key in {"count", "oracles"} else _number(number) for key, number in numbers.items()
        }
        words = {"reason": value.reason, "named": list(value.named)}
        return found | {key: said for key, said in words.items() if said}

    return {model: {name: entry(name, value) for name, value in values[model].items()} for model in MODELS}


def objective(result: Mapping[str, Any], kind: str = "accuracy") -> float:
    """Compute what a search minimises: the mean absolute accuracy gap to the oracle on forget and validation.

    kind: with `told_from_oracles`, the mean has a third part, 2 max(0, AUC - 0.5) of the number of that name, so that
    a search does not reward forgetting more than the oracle. With `exposure_forget`, it has a fourth, too: tanh(d / 2)
    for d nats of that number, which is twice what they add to a probability of one half. So a search does not reward a
    model that forgot nothing. With `character_error_rate`, for transcripts, the gaps are those of that number.

    In [0, 1] for accuracies. result: from `compare`. Validation holds the remaining classes; test and holdout are never
    used.
    Infinite for a destroyed model (see `flags`), whatever its gaps are. nan without an oracle or without a validation
    subset, because forget alone would reward a destroyed model.
    """
    unlearned = result["unlearned"]
    number = LETTERS if kind == LETTERS else "accuracy"
    gaps = [unlearned.get(f"{number}_{name}", {}).get("gap") for name in ("forget", "validation")]
    if kind in (TOLD, EXPOSED):
        told = unlearned.get(TOLD, {}).get("value")
        gaps.append(None if told is None else 2 * max(0.0, told - 0.5))
    if kind == EXPOSED:
        left = unlearned.get(EXPOSED, {}).get("value")  # 0 for oracles on average; the gap is to one of them
        gaps.append(None if left is None else math.tanh(left / 2))
    if None in gaps:
        return math.nan
    return math.inf if DESTROYED in flags(result) else sum(abs(gap) for gap in gaps) / len(gaps)
