"""The table of audits: what complementary pairs show of each method, with originals and oracles beside."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from speechforget.report.columns import number
from speechforget.store.manifest import DONE

logger = logging.getLogger(__name__)

RANGE = "{} ({} to {})"
MODELS = ("original", "oracle", "unlearned")


class Shown(NamedTuple):
    """A column of the table. figure: of an audit."""

    figure: str
    heading: str
    factor: float = 1
    decimals: int = 3


COLUMNS = (
    Shown("swap_auc_margin", "exchanged attack AUC"),
    Shown("per_utterance_auc", "per-utterance attack AUC"),
    Shown("told_from_oracles_auc", "told from oracles AUC"),
    Shown("exposure", "exposure", decimals=2),
    Shown("retain_exposed", "others more exposed %", 100, 1),
    Shown("retain_harmed", "others less well known %", 100, 1),
    Shown("accuracy_test_gap", "test gap, points", 100, 1),
)
NOTE = (
    "Means over pairs with 95 % intervals; of oracles: the middle 95 % of oracles in the place of unlearned models, "
    "through the same code. The aim is the oracle's row."
)


class Audited(NamedTuple):
    """One audit. about: dataset, label, model and request. found: (figure, model) -> entry."""

    about: str
    method: str
    found: Mapping[tuple[str, str], Mapping[str, Any]]
    pairs: int
    oracles: int
    made_up: str


def read_audits(folder: Path) -> list[Audited]:
    """Read the audits of all finished results below a folder. Several results may share one audit, which counts once.

    Audits of one method that differ in anything but seeds of the run are apart, and each has its line.
    """
    found: dict[str, Audited] = {}
    for path in sorted(folder.rglob("result.json")):
        if not (path.parent / DONE).exists():
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            audit = result.get("audit")
            if audit:
                found.setdefault(
                    json.dumps([result["dataset"], result["method"], audit], sort_keys=True), _read(result)
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Left out the audit of %s: %s: %s.", path, type(error).__name__, error)
    return list(found.values())


def _read(result: Mapping[str, Any]) -> Audited:
    audit = result["audit"]
    about = f"{result['dataset']} ({result['label']}), {result['model']}, {result['request']['name']}"
    found = {(figure["name"], figure["model"]): figure for figure in audit["figures"]}
    return Audited(about, result["method"], found, audit["pairs"], audit["oracles"], audit["pool"]["made_up"])


def audits_markdown(audits: list[Audited]) -> str:
    """Write one Markdown table for each corpus, model and request; empty without audits."""
    parts = []
    for about in dict.fromkeys(audit.about for audit in audits):
        own = [audit for audit in audits if audit.about == about]
        grid = pd.DataFrame(list(_lines(own)), columns=["", *(column.heading for column in COLUMNS)])
        sides = ["left", *["right"] * len(COLUMNS)]
        table = grid.to_markdown(index=False, disable_numparse=True, colalign=sides)
        first = own[0]
        note = f"{first.pairs} pairs and {first.oracles} oracles. {first.made_up} {NOTE}"
        parts.append(f"### Audit of methods: {about}\n\n{table}\n\n{note}\n")
    return "\n".join(parts)


def _lines(audits: list[Audited]) -> Iterator[list[str]]:
    """Yield the original and the oracle once, as all methods share them, and then the methods by name."""
    first = audits[0]
    for model in MODELS[:2]:
        yield [model.capitalize(), *(_cell(first, column, model) for column in COLUMNS)]
    for audit in sorted(audits, key=lambda audit: (audit.method != "none", audit.method)):
        yield [audit.method, *(_cell(audit, column, "unlearned") for column in COLUMNS)]


def _cell(audit: Audited, column: Shown, model: str) -> str:
    entry = audit.found.get((column.figure, model))
    if entry is None or entry["value"] is None:
        return "–"
    numbers = [number(entry[name], column.factor, column.decimals) for name in ("value", "low", "high")]
    return numbers[0] if entry["low"] is None else RANGE.format(*numbers)


def audits_rows(audits: list[Audited]) -> str:
    """Write all figures of all audits as CSV, unrounded."""
    rows = [
        {"about": audit.about, "method": audit.method if entry["model"] == "unlearned" else entry["model"], **entry}
        for audit in audits
        for entry in audit.found.values()
    ]
    return pd.DataFrame(rows).to_csv(index=False)
