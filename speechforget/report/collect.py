"""Many runs' results as one table of numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.errors import UserError
from speechforget.report.result import footnotes, has_oracle, oracle_verdict

logger = logging.getLogger(__name__)

RUN = ["folder", "dataset", "label", "model", "holdout", "oracle", "method", "seed", "task_seed"]
RUN += ["kind", "task", "request", "settings", "method_settings"]
NUMBERS = ["value", "low", "high", "count", "gap"]


def collect(folder: Path) -> pd.DataFrame:
    """All finished runs below `folder`, one row per run, artefact (original, oracle, unlearned) and metric.

    Columns: what the run was (`RUN`; task and settings as sorted JSON without seeds), `code` (commit and versions), `artefact`, `key` (what
    tells two artefacts apart), `metric`, `NUMBERS`, `verdict` (of the oracle's attack) and `notes` (one a line). Folders without DONE are left
    out; files that cannot be read are named in a warning. UserError when there is no folder or no result.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}': name the one that the runs wrote to (`output`, by default outputs).")
    rows: list[dict[str, Any]] = []
    unfinished = 0
    for path in sorted(folder.rglob("result.json")):
        if not (path.parent / "DONE").exists():
            unfinished += 1
            continue
        try:
            rows += _rows(path, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Left out %s, which cannot be read as a result (%s: %s).", path, type(error).__name__, error)
    if unfinished:
        logger.warning("Left out %d unfinished run%s (no DONE beside result.json).", unfinished, "" if unfinished == 1 else "s")
    if not rows:
        raise UserError(f"There is no finished result below '{folder}': run `python run.py` first, or name the folder that runs wrote to.")
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(NUMBERS, "float64"))


def _rows(path: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run."""
    task, settings = dict(result["task"]), dict(result.get("settings") or {})
    run = {
        "folder": str(path.parent),
        **{name: str(result[name]) for name in ("dataset", "label", "model", "method")},
        "holdout": bool(result["holdout"]),
        "oracle": has_oracle(result),
        "seed": int(result["seed"]),
        "task_seed": int(task.get("seed") or 0),
        "kind": str(task.get("kind", "")),
        "task": _canonical(task),
        "request": str(result["request"]["name"]),
        "settings": _canonical({name: value for name, value in settings.items() if name != "method"}),
        "method_settings": _canonical({"method": settings.get("method", {})}),
        "code": json.dumps([result.get("commit"), result.get("versions")], sort_keys=True),
        "verdict": oracle_verdict(result),
        "notes": "\n".join(footnotes(result)),
    }
    keys = result["artefacts"]
    rows = []
    for artefact, metrics in result["comparison"].items():
        # The original is measured on the request and beside the oracle, so the same one gives other numbers in another request.
        key = json.dumps([keys[artefact], keys["oracle"], run["request"], run["task_seed"]])
        for metric, entry in metrics.items():
            rows.append({**run, "artefact": artefact, "key": key, "metric": metric, **{name: entry[name] for name in NUMBERS}})
    return rows


def _canonical(options: Mapping[str, Any]) -> str:
    """Sorted JSON of flat dotted names, without seeds and names, which do not make two runs different."""
    return json.dumps(flatten(options), sort_keys=True, default=str)


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted name -> value; leaves out seeds, names and what is not set."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif value is not None and name != "name" and not name.endswith("seed"):
            flat[f"{prefix}{name}"] = value
    return flat


def differences(canonical: list[str]) -> dict[str, str]:
    """Each text of `_canonical` -> what it does not share with the others, as `name=value`; empty when there is one only."""
    options = {text: json.loads(text) for text in dict.fromkeys(canonical)}
    names = sorted({name for flat in options.values() for name in flat})
    differing = [name for name in names if len({json.dumps(flat.get(name)) for flat in options.values()}) > 1]
    return {text: ", ".join(f"{name.split('.')[-1]}={flat[name]}" for name in differing if name in flat) for text, flat in options.items()}
