"""Make the page of a report, and the slices of its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget.page.audio import read_audio
from speechforget.page.charts import MOST, collect_charts
from speechforget.page.render import charts, render
from speechforget.page.request import readable, screen
from speechforget.page.rows import grids, slices, without_names
from speechforget.record.build import build
from speechforget.record.canonical import canonical_bytes
from speechforget.record.folders import Outputs
from speechforget.record.shared import expanded
from speechforget.report.charts.names import Names
from speechforget.report.table import Table

FILE = "report.html"


@dataclass(frozen=True)
class Asked:
    """Hold what a user asks of a page. audio: the result whose recordings are inside. open_ids: ids, not hashes."""

    policy: Path | None = None
    audio: str | None = None
    open_ids: bool = False


def make_page(folder: Path, tables: Sequence[Table], asked: Asked) -> dict[str, str]:
    """Return the page over all finished results below a folder, and the slices of its tables: name -> text.

    Raises UserError for a damaged artefact, a wrong policy, or recordings that are not here.
    """
    record = build(folder, policy=asked.policy)
    outputs, names = Outputs(folder), Names(folder, asked.open_ids)
    entries, hidden = _newest_first(outputs, record), without_names(tables, names)
    audio = {} if asked.audio is None else {"audio": read_audio(outputs, asked.audio, names)}
    data = {"charts": collect_charts(outputs, entries, hidden, names), "specs": charts(), **audio}
    attachments = {name: canonical_bytes(value) for name, value in data.items()}
    record["attachments"] = {name: hashlib.sha256(content).hexdigest() for name, content in attachments.items()}
    shown = [screen(entry, record["policy"]) for entry in entries.values()]
    by_folder = {str(path): entry for path, entry in entries.items()}
    return {FILE: render(record, shown, grids(hidden, by_folder), attachments, MOST), **dict(slices(tables))}


def _newest_first(outputs: Outputs, record: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Map the folder of each result to its readable entry, the newest first."""
    entries = {entry["key"]: readable(entry) for entry in expanded(record)}
    folders = {outputs.key(folder): folder for folder in outputs.results}
    ordered = sorted(entries, key=lambda key: str(entries[key]["made"] or ""), reverse=True)
    return {folders[key]: entries[key] for key in ordered}
