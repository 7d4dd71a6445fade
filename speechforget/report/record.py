"""The file that a run leaves: what was asked, and how original, oracle and unlearned compare."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from speechforget.evaluation.compare import objective
from speechforget.evaluation.flags import flags
from speechforget.store import write_text

COLUMNS = ("model", "metric", "value", "low", "high", "count", "gap")
FEWEST_NONMEMBERS = 30
INFINITE = "infinite"  # JSON knows no such number

Verdict = Literal["not measured", "no oracle", "no holdout", "no matching holdout", "too few", "outside", "inside"]


def write_result(folder: Path, record: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Writes result.json and result.csv (one row per model and metric) into `folder`, atomically, and returns what result.json holds.

    record: task, dataset, label, model, method, seed, request, holdout, artefacts, versions, commit; optionally `identity`, by which
    the report tells runs apart, `cost`, of each model, `no_oracle`, why there is none, `notes`, what every table of the run
    must say, and `untried`, a warning that the request is none that the method's numbers were tried on. comparison: from
    `evaluation.compare.compare`. `objective` is null where there is none, "infinite" for a destroyed model; `flags` holds what is wrong at first
    sight, with its sentence.
    """
    score = objective(comparison)
    told = score if math.isfinite(score) else INFINITE if math.isinf(score) else None
    said = flags(comparison, bool(record["request"]["forgotten"]))
    result = {**record, "comparison": comparison, "objective": told, "flags": said}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False, default=_plain) + "\n"
    write_text(folder / "result.csv", _rows(comparison))
    write_text(folder / "result.json", text)
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def read_objective(result: Mapping[str, Any]) -> float:
    """The number that `write_result` wrote, nan for none."""
    told = result["objective"]
    return math.nan if told is None else math.inf if told == INFINITE else float(told)


def _plain(thing: Any) -> Any:
    """For JSON: NumPy's numbers as Python's, anything else as words."""
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
    """Whether what `write_result` returned is about an oracle, too."""
    return not result.get("no_oracle")


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """What must be read beside the numbers: why there is no oracle, where the models come from, and where the request is an untried one."""
    said = [None if has_oracle(result) else result["no_oracle"], *(result.get("notes") or []), result.get("untried")]
    return [str(note) for note in said if note]


def oracle_verdict(result: Mapping[str, Any]) -> Verdict:
    """Whether 0.5 lies in the interval of the oracle's membership AUC, and whether there is anything to tell it from.

    The oracle never saw forget nor holdout, so its AUC shows what the two differ in besides membership.
    """
    entry = result["comparison"]["oracle"].get("membership_auc")
    if entry is not None and not has_oracle(result) and result["holdout"]:
        return "no oracle"
    return attack_verdict(entry, bool(result["holdout"]))


def attack_verdict(entry: Mapping[str, Any] | None, holdout: bool) -> Verdict:
    """The same for an AUC (a comparison's entry); None where the run's metrics do not measure it."""
    if entry is None:
        return "not measured"
    if not holdout:
        return "no holdout"
    if entry["value"] is None or not entry["count"]:
        return "no matching holdout"
    if entry["count"] < FEWEST_NONMEMBERS:
        return "too few"
    return "inside" if entry["low"] <= 0.5 <= entry["high"] else "outside"
