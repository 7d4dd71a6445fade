"""Many runs' results as one table of numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.errors import UserError
from speechforget.report.machines import compare_in_seconds, machine_of, passes_of
from speechforget.report.record import footnotes, has_oracle, oracle_verdict

logger = logging.getLogger(__name__)

MODELS = ("original", "oracle", "unlearned")
NUMBERS = ["value", "low", "high", "count", "gap"]
IDENTITY = ["table", "block", "row", "facts", "metric_code", "recorded"]


def collect(folder: Path) -> pd.DataFrame:
    """All finished runs below `folder`, one row per run, artefact (original, oracle, unlearned) and metric.

    Columns:
    - what the run was: folder, time (when its result was made), dataset, label, model, method, kind and name (request) of the request, holdout,
      oracle (whether there is one), seeds, notes (one a line), untried (whether its method's numbers were not tried on such a request), flags, code
      (commit and versions), verdict (of the oracle's attack);
    - `IDENTITY`: table, block and row are equal for runs that differ in seeds alone (in how original and oracle were made; in the request; in the
      unlearned model); facts and metric_code are JSON of what they are made of; recorded is false for results of older code, which do not say what
      they are, so that each is alone;
    - artefact, key (what tells two artefacts apart), machine (on which kind its seconds were spent), metric, `NUMBERS` and reason (why there is no
      value, where the metric says so). The metric `passes` comes from the cost.

    Folders without DONE are left out; files that cannot be read are named in a warning. UserError when there is no folder or no result.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder '{folder}': name the one that the runs wrote to (`output`, by default outputs)."
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
            logger.warning("Left out %s, which cannot be read as a result (%s: %s).", path, type(error).__name__, error)
    if unfinished:
        logger.warning(
            "Left out %d unfinished run%s (no DONE beside result.json).", unfinished, "" if unfinished == 1 else "s"
        )
    if not rows:
        raise UserError(
            f"There is no finished result below '{folder}': run `python run.py` first, or name the folder that runs wrote to."
        )
    return _adopted(pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, "float64")))


def _rows(path: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run."""
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
    seconds_compare = compare_in_seconds(result)
    rows = []
    for artefact, metrics in result["comparison"].items():
        # The original is measured on the request and beside the oracle, so the same one gives other numbers in another request.
        key = json.dumps([keys[artefact], keys["oracle"], utterances])
        flags = json.dumps(sorted(result.get("flags") or {}) if artefact == "unlearned" else [])
        about = {**run, "artefact": artefact, "key": key, "machine": machine_of(costs.get(artefact)), "flags": flags}
        for metric, entry in [*metrics.items(), *_passes(costs, artefact)]:
            numbers = {name: entry[name] for name in NUMBERS}
            if metric == "seconds" and not seconds_compare:
                numbers["gap"] = None
            rows.append({**about, "metric": metric, **numbers, "reason": str(entry.get("reason") or "")})
    return rows


def _passes(costs: Mapping[str, Any], artefact: str) -> Iterator[tuple[str, dict[str, Any]]]:
    count, aim = passes_of(costs.get(artefact)), passes_of(costs.get("oracle"))
    if count is not None:
        yield (
            "passes",
            {"value": count, "low": None, "high": None, "count": 1, "gap": None if aim is None else count - aim},
        )


def _time(folder: Path) -> float:
    """When the result was made: as it says itself, or the file's."""
    try:
        return datetime.strptime(
            json.loads((folder / "about.json").read_text(encoding="utf-8"))["time"], "%Y-%m-%dT%H:%M:%S%z"
        ).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / "DONE").stat().st_mtime


def shown_time(time: float) -> str:
    """For readers."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _identity(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What tells tables, blocks and rows apart; see `Pipeline.identity`."""
    models = {name: recorded[name] or {"digest": None, "facts": {}} for name in MODELS}
    made = {f"{name}.{place}": fact for name in ("original", "oracle") for place, fact in models[name]["facts"].items()}
    facts = {"table": made, "block": _flat(recorded["request"]), "row": models["unlearned"]["facts"]}
    return {
        "table": json.dumps([models[name]["digest"] for name in ("original", "oracle")]),
        "block": json.dumps(recorded["request"], sort_keys=True),
        "row": str(models["unlearned"]["digest"]),
        "facts": json.dumps(facts),
        "metric_code": json.dumps(recorded["metrics"], sort_keys=True),
        "recorded": True,
    }


def _alone(folder: Path) -> dict[str, Any]:
    """A result of older code, of which it is not known with what it may be averaged."""
    name = f"result {folder.name}"
    facts = {"table": {"not averaged, as it does not say what it is": folder.name}, "block": {}, "row": {}}
    return {
        "table": f"{name} {folder}",
        "block": name,
        "row": name,
        "facts": json.dumps(facts),
        "metric_code": "{}",
        "recorded": False,
    }


def _adopted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, where results of older code about the very models that a newer result is about are what that is."""
    known = frame[frame["recorded"]].drop_duplicates("models").set_index("models")
    older = ~frame["recorded"] & frame["models"].isin(known.index)
    for column in ("table", "block", "row", "facts", "seeds", "dataset"):
        frame.loc[older, column] = frame.loc[older, "models"].map(known[column])
    keys = frame[frame["recorded"]].drop_duplicates(["models", "artefact"]).set_index(["models", "artefact"])["key"]
    for place in frame.index[older]:
        frame.loc[place, "key"] = keys[(frame.loc[place, "models"], frame.loc[place, "artefact"])]
    return frame


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
