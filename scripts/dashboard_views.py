"""The workspace and the report of the project in W&B, built by the package wandb-workspaces, which asks no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.internal import ReportViewspec
from wandb_workspaces.workspaces.internal import View

TITLE = "Unlearning, judged by the oracle"
RESULTS = expr.And(expr.Metric("JobType") == "result")
METHOD = wr.Config("method.name")
SETS = ("forget", "retain", "validation")
ACCURACIES = ("accuracy_forget", "accuracy_retain", "accuracy_test")
AUDITED = ("swap_auc_margin", "per_utterance_auc", "told_from_oracles_auc")
SWEPT = ("method.name", "method.learning_rate", "method.epochs", "seed")
TABLES = ("comparison", "tables/verdict", "tables/audit", "confusion/unlearned_table")
PLACES = ("metrics", "xAxis", "yAxis", "accessor", "groupBy", "columnOrder")  # of a specification, with names of keys
READ = (
    "The aim is the oracle: a model trained without the forgotten recordings. A gap on either side is a failure: more "
    "is left of the request, or the request stands out. Differences within the null band are not told apart from those "
    "between oracles."
)


def ranking() -> list[Any]:
    """Return the panels that rank methods: by gap, and gap against cost."""
    gap = wr.SummaryMetric("ranking/gap")
    return [
        _bars("Mean absolute gap to the oracle, points", ["ranking/gap"], "stddev"),
        wr.ScatterPlot(title="Gap against cost", x=wr.SummaryMetric("ranking/passes"), y=gap, log_x=True),
    ]


def curves() -> list[Any]:
    """Return the curves of the method, with the level of the oracle beside."""
    return [
        wr.LinePlot(
            title=f"{name}: {measure}",
            x="pass/number",
            y=[f"pass/{name}_{measure}", f"pass/{name}_{measure}_oracle"],
            title_x="passes; 0 is the original",
        )
        for name in SETS
        for measure in ("accuracy", "loss")
    ]


def spread() -> list[Any]:
    """Return what seeds change: mean, smallest and largest value of each method, beside the oracle's."""
    names = [*ACCURACIES, "membership_auc"]
    return [_bars(f"{name} over seeds", [f"unlearned/{name}", f"oracle/{name}"], "minmax") for name in names]


def audit() -> list[Any]:
    """Return the figures of audits between the ends of their nulls."""
    ends = ("", "_null_low", "_null_high")
    return [_bars(f"{name} and its null", [f"audit/{name}{end}" for end in ends], "minmax") for name in AUDITED]


def sweep() -> list[Any]:
    """Return parallel coordinates from the numbers of a method to what they lead to."""
    settings = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in SWEPT]
    names = [*(f"unlearned/{name}" for name in ACCURACIES), "ranking/passes", "ranking/gap"]
    found = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name)) for name in names]
    return [wr.ParallelCoordinatesPlot(title="A sweep", columns=[*settings, *found])]


def tables() -> list[Any]:
    """Return the tables and the confusion matrix of the chosen runs."""
    return [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]


def _bars(title: str, metrics: list[Any], spread_of: Any) -> Any:
    return wr.BarPlot(title=title, metrics=metrics, groupby=METHOD, groupby_aggfunc="mean", groupby_rangefunc=spread_of)


PARTS = {
    "Ranking": ranking,
    "Curves, and the level of the oracle": curves,
    "Spread over seeds": spread,
    "Audits and their nulls": audit,
    "A sweep": sweep,
    "Tables": tables,
}


def workspace(entity: str, project: str) -> ws.Workspace:
    """Build the workspace: one section for each part, over results alone, the smallest gap first."""
    shown = ["config:method.value.name", "summary:ranking/gap", "summary:ranking/passes", "summary:verdict/request"]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=name, panels=panels(), is_open=True) for name, panels in PARTS.items()],
        runset_settings=ws.RunsetSettings(
            filters=RESULTS,
            order=[expr.Ordering(expr.Summary("ranking/gap"), ascending=True)],
            pinned_columns=["run:displayName", *shown],
        ),
    )


def report(entity: str, project: str) -> wr.Report:
    """Build the report: the same parts, each with a heading."""
    blocks: list[Any] = [wr.P(READ)]
    for name, panels in PARTS.items():
        results = wr.Runset(name="results", filters=RESULTS)
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[results], panels=panels())]
    return wr.Report(entity=entity, project=project, title=TITLE, description=READ, blocks=blocks, width="fluid")


def specification(entity: str, project: str) -> dict[str, Any]:
    """Return workspace and report as JSON. Raises ValueError if the models of wandb-workspaces do not read it back.

    These models check the name and the type of each field. Reading may replace null by an empty list, so what is
    compared are the keys that the panels draw.
    """
    built: dict[str, Any] = {"workspace": workspace(entity, project), "report": report(entity, project)}
    found = {name: _json(each._to_model()) for name, each in built.items()}
    for name, model in (("workspace", View), ("report", ReportViewspec)):
        again = _json(model.model_validate(found[name]))
        if list(names_in(again)) != list(names_in(found[name])):
            raise ValueError(f"wandb-workspaces reads the {name} otherwise than it was written")
    return found


def _json(model: Any) -> dict[str, Any]:
    return dict(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def names_in(value: Any) -> Iterator[str]:
    """Yield the metrics, tables and settings (`config.` in front) that a specification draws, groups or sorts by."""
    if isinstance(value, list):
        for item in value:
            yield from names_in(item)
    if not isinstance(value, Mapping):
        return
    for place, item in value.items():
        if place in PLACES:
            yield from (name for text in _texts(item) if (name := _plain(text)))
        elif place == "key" and isinstance(item, Mapping):  # of a sorting, or of a table
            yield from _texts([item["name"]] if item.get("section") == "summary" else item.get("val", []))
        yield from names_in(item)


def _texts(item: Any) -> list[str]:
    return [text for text in (item if isinstance(item, list) else [item]) if isinstance(text, str)]


def _plain(text: str) -> str:
    """Return a key as runs log it; empty for what W&B itself knows of every run."""
    if text.startswith("run:"):
        return ""
    setting = text.removeprefix("config:")
    if ".value" in setting:
        return f"config.{setting.replace('.value', '', 1)}"
    return text.removeprefix("summary:").removeprefix("summary_metrics.")
