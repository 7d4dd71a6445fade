"""Collect the charts of all results of a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.errors import UserError
from speechforget.page.charts.across import gap_against_cost
from speechforget.page.charts.models import confusion, layers, relearning, speakers, words
from speechforget.page.charts.scene import Chart, Scene, nothing
from speechforget.page.charts.utterances import attack_curve, embedding_map, losses, utterances
from speechforget.record.folders import Outputs
from speechforget.record.salt import Salt
from speechforget.report.table import Table
from speechforget.stages.joined import read_tables

logger = logging.getLogger(__name__)

MOST = 30  # results with charts of their own: the newest
SHOWN = 12  # digits of a hash that stands for an id, a speaker
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


class Names:
    """Give what names people as salted hashes, or openly if asked."""

    def __init__(self, salt: Salt, open_ids: bool) -> None:
        self.salt, self.open_ids = salt, open_ids

    def shown(self, name: str) -> str:
        """Return a name, or the first digits of its salted hash; empty for an empty name."""
        return name if self.open_ids or not name else self.salt.hashed(name)[:SHOWN]

    def all(self, names: Sequence[str] | NDArray[np.str_]) -> NDArray[np.str_]:
        """Return every name as it is shown."""
        known = {name: self.shown(str(name)) for name in dict.fromkeys(names)}
        return np.array([known[name] for name in names], dtype=str)


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
    classes = [names.shown(name) for name in found.classes] if entry["label"] == "speaker" else list(found.classes)
    known = found.speaker is not None and bool((found.speaker != "").any())
    speaking = names.all(found.speaker) if known and found.speaker is not None else None
    scene = Scene(entry["comparison"], found, names.all(ids), classes, speaking)
    return {name: chart(scene) for name, chart in CHARTS.items()}
