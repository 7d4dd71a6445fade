"""The results of many runs as one table of numbers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.config.identity import flat
from speechforget.errors import UserError
from speechforget.evaluation.evidence import judge
from speechforget.report.columns import COLUMNS
from speechforget.report.cost import compare_in_seconds, machine_of, passes_of
from speechforget.report.record import footnotes, has_oracle, oracle_verdict

logger = logging.getLogger(__name__)

MODELS = ("original", "oracle", "unlearned")
NUMBERS = ["value", "low", "high", "count", "gap"]
BAND = ["band_low", "band_high"]
IDENTITY = ["table", "block", "row", "facts", "metric_code", "recorded"]


def collect(folder: Path) -> pd.DataFrame:
    """Read all finished runs below `folder`: one row per run, artefact (original, oracle, unlearned) and metric.

    Columns that describe the run:
    - folder, time (when its result was made), dataset, label, model, method, code (commit and versions);
    - kind and request (name) of the request, holdout and oracle (whether there is one), seeds;
    - notes (one per line), untried (whether the method's numbers were not tried on such a request), flags;
    - verdict (of the oracle's attack).

    `IDENTITY` columns:
    - table, block and row: equal for runs that differ only in seeds. They identify how original and oracle were made,
      the request, and the unlearned model;
    - facts and metric_code: JSON of what these are computed from;
    - recorded: false for results of older code, which record no identity and are averaged with no other.

    Columns of the number: artefact, key (tells artefacts apart), machine (the kind that seconds were measured on),
    metric, `NUMBERS`, `BAND` (a further oracle stays within in 95 % of cases; nan where it is not known), and reason
    (why there is no value, if the metric says so). The metric `passes` comes from the cost.

    Folders without DONE are left out, and a warning names files that cannot be read.

    Raises UserError if there is no folder or no result.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder '{folder}': name the output folder of the runs (`output`, by default outputs)."
        )
    rows: list[dict[str, Any]] = []
    unfinished = 0
    for path in sorted(folder.rglob("result.json")):
        if not (path.parent / "DONE").exists():
            unfinished += 1
            continue
        try:
            rows += _rows(path, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Left out %s: it cannot be read as a result (%s: %s).", path, type(error).__name__, error)
    if unfinished:
        logger.warning(
            "Left out %d unfinished run%s (no DONE beside result.json).", unfinished, "" if unfinished == 1 else "s"
        )
    if not rows:
        raise UserError(
            f"There is no finished result below '{folder}': run `python run.py`, or name another output folder."
        )
    return _adopted(
        pd.DataFrame(rows)
        .reindex(columns=[*dict.fromkeys([*rows[0], *BAND])])
        .astype(dict.fromkeys([*NUMBERS, *BAND], "float64"))
    )


def _rows(path: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the rows of one run."""
    identity, keys, costs = result.get("identity"), result["artefacts"], result.get("cost") or {}
    request = str(result["request"]["name"])
    utterances = request if identity is None else identity["utterances"][0]
    run = {
        "folder": str(path.parent),
        "time": _time(path.parent),
        **{name: str(result[name]) for name in ("dataset", "label", "model", "method")},
        "holdout": bool(result["holdout"]),
        "oracle": has_oracle(result),
        "kind": str(result["task"].get("kind", "")),
        "request": request,
        "seeds": json.dumps(identity["seeds"] if identity else [result["seed"], result["task"].get("seed")]),
        "code": json.dumps([result.get("commit"), result.get("versions")], sort_keys=True),
        "verdict": oracle_verdict(result),
        "notes": "\n".join(note for note in footnotes(result) if note != result.get("untried")),
        "untried": bool(result.get("untried")),
        "models": json.dumps([request, *(keys[name] for name in MODELS)]),
        **(_alone(path.parent) if identity is None else _identity(identity)),
    }
    seconds_compare, bands = compare_in_seconds(result), _bands(result["comparison"])
    rows = []
    for artefact, metrics in result["comparison"].items():
        # The numbers of an original depend on the request and the oracle too, so its key holds them.
        key = json.dumps([keys[artefact], keys["oracle"], utterances])
        flags = json.dumps(sorted(result.get("flags") or {}) if artefact == "unlearned" else [])
        about = {**run, "artefact": artefact, "key": key, "machine": machine_of(costs.get(artefact)), "flags": flags}
        for metric, entry in [*metrics.items(), *_passes(costs, artefact)]:
            numbers = {name: entry[name] for name in NUMBERS}
            if metric == "seconds" and not seconds_compare:
                numbers["gap"] = None
            reason = str(entry.get("reason") or "")
            rows.append({**about, "metric": metric, **numbers, **bands.get((artefact, metric), {}), "reason": reason})
    return rows


def _bands(comparison: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the band of oracles of each number of the unlearned model that a table shows."""
    shares = (column.metric for column in COLUMNS if column.metric != "seconds")  # all are at least 0
    found = (each for metric in shares for each in judge(comparison, [metric]) if each.side is not None)
    return {
        ("unlearned", each.name): dict(zip(BAND, (max(each.low, 0.0), min(each.high, _most(each.name))), strict=True))
        for each in found
    }


def _most(metric: str) -> float:
    """Return the largest value that a number can have: more words can be wrong than were said."""
    return math.inf if "error_rate" in metric else 1.0


def _passes(costs: Mapping[str, Any], artefact: str) -> Iterator[tuple[str, dict[str, Any]]]:
    count, aim = passes_of(costs.get(artefact)), passes_of(costs.get("oracle"))
    if count is not None:
        yield (
            "passes",
            {"value": count, "low": None, "high": None, "count": 1, "gap": None if aim is None else count - aim},
        )


def _time(folder: Path) -> float:
    """Return when the result was made: the recorded time, or else the time of its DONE file."""
    try:
        return datetime.strptime(
            json.loads((folder / "about.json").read_text(encoding="utf-8"))["time"], "%Y-%m-%dT%H:%M:%S%z"
        ).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / "DONE").stat().st_mtime


def shown_time(time: float) -> str:
    """Format a time for readers."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _identity(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `IDENTITY` columns of a recorded identity; see `Pipeline.identity`."""
    models = {name: recorded[name] or {"digest": None, "facts": {}} for name in MODELS}
    made = {f"{name}.{path}": fact for name in ("original", "oracle") for path, fact in models[name]["facts"].items()}
    facts = {"table": made, "block": flat(recorded["request"]), "row": models["unlearned"]["facts"]}
    return {
        "table": json.dumps([models[name]["digest"] for name in ("original", "oracle")]),
        "block": json.dumps(recorded["request"], sort_keys=True),
        "row": str(models["unlearned"]["digest"]),
        "facts": json.dumps(facts),
        "metric_code": json.dumps(recorded["metrics"], sort_keys=True),
        "recorded": True,
    }


def _alone(folder: Path) -> dict[str, Any]:
    """Return the `IDENTITY` columns of a result of older code: it may be averaged with no other."""
    name = f"result {folder.name}"
    facts = {"table": {"not averaged, because it records no identity": folder.name}, "block": {}, "row": {}}
    return {
        "table": f"{name} {folder}",
        "block": name,
        "row": name,
        "facts": json.dumps(facts),
        "metric_code": "{}",
        "recorded": False,
    }


def _adopted(frame: pd.DataFrame) -> pd.DataFrame:
    """Give results of older code the identity of a newer result of the same models, if there is one."""
    known = frame[frame["recorded"]].drop_duplicates("models").set_index("models")
    older = ~frame["recorded"] & frame["models"].isin(known.index)
    for column in ("table", "block", "row", "facts", "seeds", "dataset"):
        frame.loc[older, column] = frame.loc[older, "models"].map(known[column])
    keys = frame[frame["recorded"]].drop_duplicates(["models", "artefact"]).set_index(["models", "artefact"])["key"]
    for index in frame.index[older]:
        frame.loc[index, "key"] = keys[(frame.loc[index, "models"], frame.loc[index, "artefact"])]
    return frame
