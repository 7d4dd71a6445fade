"""What a tracker shows of a result: numbers with their bands, the audit, the verdict, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from speechforget.evaluation.audit.catalogue import QUESTIONS
from speechforget.evaluation.tables import MODELS
from speechforget.report.audits import COLUMNS as AUDITED
from speechforget.report.charts.across import GAPS, mean_gap
from speechforget.report.charts.models import confusion, confusion_matrix, layers, relearning, speakers, words
from speechforget.report.charts.scene import Chart, Scene
from speechforget.report.charts.utterances import attack_curve, losses
from speechforget.report.columns import COLUMNS
from speechforget.report.cost import passes_of
from speechforget.report.record import read_objective
from speechforget.tracking.tracker import Sheet

ENTRY = ("value", "low", "high", "count", "gap", "null_low", "null_high", "oracle_spread", "reason")
FIGURE = ("name", "model", "value", "low", "high", "null_low", "null_high", "p", "pairs", "units", "unit", "reason")
ANSWER = ("question", "word", "sentence", "strength")
ENDS = ("low", "high", "null_low", "null_high", "p")  # numbers beside the value of a figure
SEPARATOR = ", "
NAMES = {question: name for name, question in QUESTIONS.items()}
MATRIX = {"chart": "confusion", "Actual": "actual", "Predicted": "predicted", "nPredictions": "count"}


class Drawn(NamedTuple):
    """Say how a tracker draws a chart of a page. axes: see `Sheet`. series: columns that name a line or a bar."""

    chart: Callable[[Scene], Chart]
    title: str
    axes: Mapping[str, str]
    series: tuple[str, ...] = ()


LINE, BAR = {"chart": "line", "stroke": "series"}, {"chart": "bar", "label": "series"}
CHARTS = {
    "losses": Drawn(losses, "Losses in nats, % of each group", {**LINE, "x": "from", "y": "share"}, ("model", "group")),
    "attack": Drawn(attack_curve, "Attack on the loss, ROC", {**LINE, "x": "false", "y": "true"}, ("model",)),
    "relearning": Drawn(relearning, "Relearning, accuracy %", {**LINE, "x": "shots", "y": "accuracy"}, ("model",)),
    "layers": Drawn(layers, "Probes minus the oracle's", {**BAR, "value": "gap"}, ("model", "question", "layer")),
    "forgotten": Drawn(confusion, "Forgotten classes taken for, %", {**BAR, "value": "share"}, ("model", "predicted")),
    "words": Drawn(words, "Classes minus the oracle's, points", {**BAR, "value": "gap"}, ("name",)),
    "speakers": Drawn(speakers, "Speakers minus the oracle's, points", {**BAR, "value": "gap"}, ("name",)),
}


def comparison_rows(comparison: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of the table of a comparison: one row for each model and metric."""
    rows = [
        [model, metric, *map(entry.get, ENTRY)]
        for model, entries in comparison.items()
        for metric, entry in entries.items()
    ]
    return ["model", "metric", *ENTRY], rows


def scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a result by name: `<model>/<metric>`, and what methods are ranked by (`ranking/`)."""
    comparison = result["comparison"]
    found = {f"{model}/{metric}": entry["value"] for model, of in comparison.items() for metric, entry in of.items()}
    cost, unlearned = result.get("cost") or {}, comparison["unlearned"]
    found["ranking/gap"] = mean_gap({name: (unlearned.get(name) or {}).get("gap") for name in GAPS})
    found["ranking/passes"] = passes_of(cost.get("unlearned"))
    found["ranking/seconds"] = (unlearned.get("seconds") or {}).get("value")
    objective = read_objective(result)
    found["ranking/objective"] = objective if math.isfinite(objective) else None
    return {name: float(value) for name, value in found.items() if value is not None}


def headline(names: Iterable[str]) -> list[str]:
    """Return which numbers get panels of their own: the columns of the report and of its audits, and the ranking."""
    shown = {column.metric for column in COLUMNS} | {column.figure for column in AUDITED}
    ends = {f"{column.figure}_{end}" for column in AUDITED for end in ("null_low", "null_high")}

    def own(group: str, name: str) -> bool:
        return (
            group == "ranking" or (name in shown and group in {*MODELS, "audit"}) or (group == "audit" and name in ends)
        )

    return [name for name in names if own(*name.split("/", 1))]


def summary(result: Mapping[str, Any]) -> dict[str, float | str]:
    """Return gaps and bands of oracles by metric, the figures of the audit with their nulls, and the verdict."""
    told = {**dict(_bands(result["comparison"]["unlearned"])), **dict(_figures(result.get("audit") or {}))}
    for answer in result["verdict"]:
        name = NAMES.get(answer["question"], "state")
        told |= {f"verdict/{name}": answer["word"], f"verdict/{name}_sentence": answer["sentence"]}
    return {name: value for name, value in told.items() if value is not None}


def _bands(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for metric, entry in entries.items():
        yield f"gap/{metric}", entry.get("gap")
        for end in ("low", "high"):
            yield f"band/{metric}_{end}", entry.get(f"null_{end}")


def _figures(audit: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for figure in audit.get("figures", ()):
        mine = figure["model"] == "unlearned"
        name = f"audit/{figure['name']}" if mine else f"audit_{figure['model']}/{figure['name']}"
        yield name, figure["value"]
        yield from ((f"{name}_{end}", figure[end]) for end in ENDS if mine)


def sheets(scene: Scene, result: Mapping[str, Any]) -> tuple[dict[str, Sheet], dict[str, str]]:
    """Return tables and charts by name, and for each chart without data the reason."""
    found = {"tables/verdict": _table(ANSWER, result["verdict"])}
    if result.get("audit"):
        found["tables/audit"] = _table(FIGURE, result["audit"]["figures"])
    reasons = {}
    for name, (chart, title, axes, series) in CHARTS.items():
        data = chart(scene)
        if "rows" in data:
            found[f"charts/{name}"] = _drawn(data, title, axes, series)
        else:
            reasons[f"missing/{name}"] = str(data["reason"])
    for model in scene.models:
        data = confusion_matrix(scene, model)
        if "rows" in data:
            found[f"confusion/{model}"] = Sheet(data["columns"], data["rows"], MATRIX, f"Confusion on test: {model}")
        else:
            reasons[f"missing/confusion_{model}"] = str(data["reason"])
    return found, reasons


def _table(columns: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(columns, [[entry.get(name) for name in columns] for entry in entries])


def _drawn(data: Chart, title: str, axes: Mapping[str, str], series: Sequence[str]) -> Sheet:
    """Draw a chart with a further column that names the line or the bar of each row."""
    columns = list(data["columns"])
    places = [columns.index(name) for name in series]
    rows = [[*row, SEPARATOR.join(str(row[place]) for place in places)] for row in data["rows"]]
    return Sheet([*columns, "series"], rows, axes, title)
