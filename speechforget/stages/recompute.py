"""Compute the numbers of a finished result again from its score tables, and find the first that differs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.config.inputs import metrics_in
from speechforget.data.requests.pool import Pool, draw_pool
from speechforget.errors import UserError
from speechforget.evaluation.compare import compare
from speechforget.record.entry import COLUMNS, numbers_of
from speechforget.record.evidence import keys_of
from speechforget.record.folders import Outputs
from speechforget.report.record import with_verdict
from speechforget.stages.audit import audit_figures, pool_digest
from speechforget.stages.compare import measured
from speechforget.stages.joined import Joined, NotHere, artefact, read_joined
from speechforget.stages.power import judgements
from speechforget.stages.sequence_figures import Scored, sequence_figures
from speechforget.store import Artefact
from speechforget.store.files import read_json

TOLERANCE = 1e-9  # of numbers, relative above 1: another machine may add in another order
NAMED = "named"  # salted in a record, so compared with nothing there


class Difference(NamedTuple):
    """Say where a number differs, with its recorded and its computed value."""

    name: str
    recorded: Any
    recomputed: Any

    def __str__(self) -> str:
        return f"{self.name}: recorded {self.recorded!r}, recomputed {self.recomputed!r}"


class Again(NamedTuple):
    """Hold the outcome for one result.

    difference: the first one, None if all numbers are reproduced. numbers: how many were compared. left_out: what could
    not be computed again, and why.
    """

    difference: Difference | None
    numbers: int
    left_out: tuple[str, ...]


def recompute(outputs: Outputs, folder: Path, recorded: Mapping[str, Any]) -> Again:
    """Compute a result again and compare it with its entry in a record. recorded: expanded.

    Raises NotHere if a file is not below the folder, UserError if one is damaged.
    """
    joined, config = read_joined(outputs, folder), read_json(folder / "about.json").get("config")
    if not config:
        raise NotHere("older code made it and recorded no config")
    pool, reason = _pool(outputs, folder, joined, config)
    audited, left_out = dict(joined.result), []
    for part in ("audit", "power"):
        if joined.result.get(part):
            if pool is None:
                left_out.append(f"its {part}, because {reason}")
            else:
                audited[part] = {"audit": _audit, "power": _power}[part](outputs, folder, joined, pool)
    attacked = _attacked(outputs, folder, joined)
    comparison = compare(joined.tables, metrics_in(config["evaluation"]), measured(attacked))
    again = _plain(with_verdict(audited, comparison))
    left_out += ["what attacks on models measured, which is read from their files"] if any(attacked.values()) else []
    pairs = list(_pairs(recorded, again))
    return Again(next(filter(None, (_first(*pair) for pair in pairs)), None), len(pairs), tuple(left_out))


def recompute_sequence(outputs: Outputs, recorded: Mapping[str, Any]) -> Again:
    """Compute the figures of a sequence again. Raises NotHere if a file is not below the folder."""
    folder = outputs.find("sequence", recorded["key"])
    if folder is None:
        raise NotHere("the sequence is not below this folder")
    results = [artefact(outputs, "result", key).folder for key in outputs.inputs(folder)["results"]]
    *joined, together = [read_joined(outputs, result) for result in results]
    steps = [{name: made.folder for name, made in each.scores.items()} for each in (*joined, together)]
    asked, first = [each.request for each in joined], joined[0]
    again = sequence_figures(Scored(first.data, asked, steps[:-1], steps[-1], int(first.result["seed"])))
    pairs = [pair for part, values in again.items() for pair in _leaves(part, recorded[part], _plain(values))]
    return Again(next(filter(None, (_first(*pair) for pair in pairs)), None), len(pairs), ())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda thing: thing.item()))


def copied(folder: Path, recorded: Mapping[str, Any]) -> Difference | None:
    """Compare an entry of a record with the result.json that it was taken from; return the first difference."""
    return next(filter(None, (_first(*pair) for pair in _pairs(recorded, read_json(folder / "result.json")))), None)


def _attacked(outputs: Outputs, folder: Path, joined: Joined) -> dict[str, list[Artefact]]:
    found: dict[str, list[Artefact]] = {name: [] for name in joined.models}
    for part, name, stage, key in keys_of(outputs.inputs(folder)):
        if part == "attacks":
            found[name].append(artefact(outputs, stage, key))
    return found


def _pool(outputs: Outputs, folder: Path, joined: Joined, config: Mapping[str, Any]) -> tuple[Pool | None, str]:
    """Draw the pool of an audit again; None, and why, if that gives another one."""
    key = outputs.inputs(folder).get("audit")
    if key is None:
        return None, ""
    recorded = outputs.inputs(artefact(outputs, "audit", key).folder)["pool"]
    try:
        pool = draw_pool(joined.data.table, joined.request, config["task"], config["evaluation"]["pairs"])
    except (UserError, KeyError):
        pool = None
    if pool is None or pool_digest(joined.data, pool) != recorded:
        return None, "its pool was drawn by a column of the corpus that no file here holds"
    return pool, ""


def _audit(outputs: Outputs, folder: Path, joined: Joined, pool: Pool) -> dict[str, Any]:
    made = outputs.inputs(artefact(outputs, "audit", outputs.inputs(folder)["audit"]).folder)
    return audit_figures(joined.data, pool, {kind: _folders(outputs, keys) for kind, keys in made["scores"].items()})


def _power(outputs: Outputs, folder: Path, joined: Joined, pool: Pool) -> dict[str, Any]:
    made = outputs.inputs(artefact(outputs, "power", outputs.inputs(folder)["power"]).folder)
    known, unknown = (_folders(outputs, made[side]) for side in ("known", "unknown"))
    return judgements(joined.data, pool, known, unknown, made["metrics"])


def _folders(outputs: Outputs, keys: Sequence[str]) -> list[Path]:
    return [artefact(outputs, "scores", key).folder for key in keys]


def _pairs(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the recorded and the recomputed value of everything that a record says of a result."""
    for model, entries in again["comparison"].items():
        told = numbers_of(recorded, model)
        for metric in dict.fromkeys([*told, *entries]):
            one, other = told.get(metric), entries.get(metric)
            if one is None or other is None:
                yield f"{metric} of {model}", one and "a number", other and "a number"
                continue
            yield from (
                (f"{metric} of {model} ({name})", one[name], other.get(name))
                for name in (*COLUMNS, "oracles")
                if name != NAMED
            )
    for part in ("audit", "power", "verdict", "flags", "objective"):
        yield from _leaves(part, recorded[part] or None, again.get(part) or None)


def _leaves(name: str, recorded: Any, again: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield pairs of the leaves of two JSON values."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in dict.fromkeys([*recorded, *again]):
            yield from _leaves(f"{name}.{key}", recorded.get(key), again.get(key))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for number, pair in enumerate(zip(recorded, again, strict=True)):
            yield from _leaves(f"{name}[{number}]", *pair)
    else:
        yield name, recorded, again


def _first(name: str, recorded: Any, again: Any) -> Difference | None:
    if isinstance(recorded, float) and isinstance(again, (int, float)) and not isinstance(again, bool):
        same = math.isclose(recorded, again, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        same = recorded == again
    return None if same else Difference(name, recorded, again)
