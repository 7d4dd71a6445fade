"""The result files of a run: what was asked, and the comparison of original, oracle and unlearned model."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from speechforget.errors import UserError
from speechforget.evaluation.compare import objective
from speechforget.evaluation.flags import flags
from speechforget.store import verified, write_text

COLUMNS = ("model", "metric", "value", "low", "high", "count", "gap")
FEWEST_NONMEMBERS = 30
INFINITE = "infinite"  # JSON has no infinite number

Verdict = Literal["not measured", "no oracle", "no holdout", "no matching holdout", "too few", "outside", "inside"]


def write_result(folder: Path, record: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Write result.json and result.csv (one row per model and metric) atomically; return the content of result.json.

    record: task, dataset, label, model, method, seed, request, holdout, artefacts, versions, commit. Optional keys:
    `delivered` (the model for use; else the unlearned one), `identity` (by which the report tells runs apart), `cost`
    (of each model), `no_oracle` (why there is no oracle), `notes` (caveats for every table of the run), `untried` (a
    warning that the method's numbers were not tried on such a request), `exact` (what was trained again without the
    request), `audit` (its figures), and `power` (what each metric is worth on this corpus). comparison: from
    `evaluation.compare.compare`.

    Adds what `with_verdict` adds.
    """
    text = json.dumps(with_verdict(record, comparison), indent=1, allow_nan=False, default=_plain) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "result.csv", _rows(comparison))
    write_text(folder / "result.json", text)
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def with_verdict(record: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a result with its comparison and what follows from it.

    That is `objective`, which is null if undefined and "infinite" for a destroyed model, `flags` with their sentences,
    and `verdict`, the answers of `evaluation.verdict`.
    """
    from speechforget.evaluation.audit.figures import Figure
    from speechforget.evaluation.verdict import verdict

    score = objective(comparison, record.get("minimised", "accuracy"))
    told = score if math.isfinite(score) else INFINITE if math.isinf(score) else None
    forgotten = bool(record["request"]["forgotten"])
    said = flags(comparison, forgotten)
    figures = [Figure.from_json(entry) for entry in (record.get("audit") or {"figures": []})["figures"]]
    answers = [answer.to_json() for answer in verdict(comparison, figures, forgotten)]
    return {**record, "verdict": answers, "comparison": comparison, "objective": told, "flags": said}


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a finished folder. Raises UserError if it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(verified(folder, "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no readable result ({error}): remove it and run again.") from error
    return found


def read_objective(result: Mapping[str, Any]) -> float:
    """Return the objective that `write_result` wrote; nan if undefined."""
    told = result["objective"]
    return math.nan if told is None else math.inf if told == INFINITE else float(told)


def _plain(thing: Any) -> Any:
    """Convert for JSON: NumPy numbers to Python numbers, anything else to text."""
    return thing.item() if hasattr(thing, "item") else str(thing)


def _rows(comparison: Mapping[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for model, metrics in comparison.items():
        for metric, entry in metrics.items():
            writer.writerow({"model": model, "metric": metric, **entry})
    return out.getvalue()


def has_oracle(result: Mapping[str, Any]) -> bool:
    """Say whether a result has an oracle."""
    return not result.get("no_oracle")


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """List the notes of a result: why there is no oracle, caveats about its models, whether the request is untried."""
    said = [None if has_oracle(result) else result["no_oracle"], *(result.get("notes") or []), result.get("untried")]
    return [str(note) for note in said if note]


def oracle_verdict(result: Mapping[str, Any]) -> Verdict:
    """Judge whether 0.5 is inside the interval of the oracle's membership AUC, if it can be judged.

    The oracle was trained on neither forget nor holdout, so its AUC shows differences other than membership.
    """
    entry = result["comparison"]["oracle"].get("membership_auc")
    if entry is not None and not has_oracle(result) and result["holdout"]:
        return "no oracle"
    return attack_verdict(entry, bool(result["holdout"]))


def attack_verdict(entry: Mapping[str, Any] | None, holdout: bool) -> Verdict:
    """Judge an AUC, which is a comparison's entry, or None if the metrics of the run do not measure it."""
    if entry is None:
        return "not measured"
    if not holdout:
        return "no holdout"
    if entry["value"] is None or not entry["count"]:
        return "no matching holdout"
    if entry["count"] < FEWEST_NONMEMBERS:
        return "too few"
    return "inside" if entry["low"] <= 0.5 <= entry["high"] else "outside"
