"""Read thresholds that a user's policy sets, and say which the numbers of a result meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.errors import UserError, nearest
from speechforget.record.entry import numbers_of

MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"
AT_MOST, AT_LEAST = "at most", "at least"
BOUND, VALUE, GAP = "bound", "value", "gap"
NEEDED = ("figure", "direction", "limit", "source")
CHOICES = {"direction": (AT_MOST, AT_LEAST), "compare": (BOUND, VALUE, GAP)}
KEYS = (*NEEDED, "owner", "compare")


def read_policy(path: Path) -> dict[str, Any]:
    """Read a policy: `name`, `owner` and `thresholds`, each with figure, direction, limit, source and owner.

    compare: `bound` (default) compares the end of the interval that is nearer to the forbidden side, `value` the value,
    `gap` the distance to the oracle, whatever its sign. Raises UserError for the first mistake.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The policy {path} cannot be read ({error.strerror}): name a yaml file.") from None
    except (ValueError, yaml.YAMLError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" in line {line + 1}"
        raise UserError(f"The policy {path} is no yaml{where}: docs/record.md has an example.") from None
    if not isinstance(content, dict) or not isinstance(content.get("thresholds"), list) or not content["thresholds"]:
        raise UserError(f"The policy {path} has no list `thresholds`: docs/record.md has an example.")
    _known(content, ("name", "owner", "thresholds"), f"The policy {path}")
    owner = content.get("owner")
    thresholds = [
        _threshold(entry, f"Threshold {number} of {path}", owner)
        for number, entry in enumerate(content["thresholds"], 1)
    ]
    return {"name": str(content.get("name") or path.stem), "owner": owner and str(owner), "thresholds": thresholds}


def _known(entry: Mapping[Any, Any], keys: Sequence[str], where: str) -> None:
    if unknown := [key for key in entry if key not in keys]:
        raise UserError(f"{where} has an unknown key '{unknown[0]}': {nearest(unknown[0], keys)}.")


def _threshold(entry: Any, where: str, owner: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no mapping: give {', '.join(NEEDED)} and owner.")
    _known(entry, KEYS, where)
    found = {"owner": owner, "compare": BOUND, **entry}
    for key in (*NEEDED, "owner"):
        if found.get(key) in (None, ""):
            raise UserError(f"{where} has no {key}: every threshold needs {', '.join(NEEDED)} and owner.")
    for key, choices in CHOICES.items():
        if found[key] not in choices:
            raise UserError(f"{where}: {key} is '{found[key]}', and must be one of: {', '.join(choices)}.")
    limit = found["limit"]
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
        raise UserError(f"{where}: limit is '{limit}', and must be a finite number.")
    if found["compare"] == GAP and (found["direction"] != AT_MOST or limit < 0):
        raise UserError(f"{where}: compare=gap is a distance to the oracle, so it needs `at most` and a limit above 0.")
    words = {key: str(found[key]) for key in ("figure", "source", "owner")}
    return {**words, "direction": found["direction"], "compare": found["compare"], "limit": float(limit)}


def apply_policy(policy: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the policy with `outcomes` of each threshold: key of a result -> status, number and reason.

    results: expanded. The delivered model of each result is judged.
    """
    known = {name for result in results for name in measured(result)}
    thresholds = [
        {**one, "outcomes": {result["key"]: _outcome(one, result, known) for result in results}}
        for one in policy["thresholds"]
    ]
    return {**policy, "thresholds": thresholds}


def measured(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every number of the delivered model by name: those of the comparison, and those of its audit."""
    model = result["delivered"]
    found = numbers_of(result, model)
    audit = (result["audit"] or {"figures": []})["figures"]
    return found | {figure["name"]: figure for figure in audit if figure["model"] == model}


def _outcome(threshold: Mapping[str, Any], result: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    figure, compare = threshold["figure"], threshold["compare"]
    entry = measured(result).get(figure)
    if entry is None:
        hint = "" if figure in known else f": {nearest(figure, known)}"
        return {"status": NOT_MEASURED, "number": None, "reason": f"no {figure} was measured{hint}"}
    number = _compared(entry, compare, threshold["direction"])
    if number is None:
        what = "gap to an oracle" if compare == GAP else "number"
        return {"status": NOT_MEASURED, "number": None, "reason": entry.get("reason") or f"{figure} has no {what}"}
    met = number <= threshold["limit"] if threshold["direction"] == AT_MOST else number >= threshold["limit"]
    return {"status": MET if met else NOT_MET, "number": number, "reason": ""}


def _compared(entry: Mapping[str, Any], compare: str, direction: str) -> float | None:
    if compare == GAP:
        gap = entry.get("gap")
        return None if gap is None else abs(float(gap))
    bound = entry.get("high" if direction == AT_MOST else "low") if compare == BOUND else None
    number = entry.get("value") if bound is None else bound
    return None if number is None else float(number)
