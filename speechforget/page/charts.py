"""Collect the charts of all results of a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.record.folders import Outputs
from speechforget.report.charts.across import gap_against_cost
from speechforget.report.charts.models import confusion, layers, relearning, speakers, words
from speechforget.report.charts.names import SHOWN, Names
from speechforget.report.charts.scene import Chart, Scene, make_scene, nothing
from speechforget.report.charts.utterances import attack_curve, embedding_map, losses, utterances
from speechforget.report.table import Table
from speechforget.stages.joined import read_tables

logger = logging.getLogger(__name__)

MOST = 30  # results with charts of their own: the newest
CHARTS: Mapping[str, Callable[[Scene], Chart]] = {
    "utterances": utterances,
    "losses": losses,
    "attack": attack_curve,
    "relearning": relearning,
    "layers": layers,
    "confusion": confusion,
    "words": words,
    "speakers": speakers,
    "map": embedding_map,
}


def collect_charts(
    outputs: Outputs, entries: Mapping[Path, Mapping[str, Any]], tables: Sequence[Table], names: Names
) -> dict[str, Any]:
    """Make the charts of the newest results, and the chart over all.

    entries: folder of a result -> its readable entry in the record, newest first. A result whose tables are gone has
    the reason for that in the place of its charts.
    """
    kept = list(entries.items())[:MOST]
    return {
        "results": {entry["key"][:SHOWN]: _charts_of(outputs, folder, entry, names) for folder, entry in kept},
        "all": {"cost": gap_against_cost(tables)},
    }


def _charts_of(outputs: Outputs, folder: Path, entry: Mapping[str, Any], names: Names) -> dict[str, Chart]:
    try:
        found, ids = read_tables(outputs, folder)
    except UserError as error:
        logger.warning("%s has no charts: %s", folder.name, error)
        return dict.fromkeys(CHARTS, nothing(f"There is no chart, because the score tables cannot be read: {error}."))
    scene = make_scene(entry["comparison"], found, ids, entry["label"], names)
    return {name: chart(scene) for name, chart in CHARTS.items()}
