"""Stage: judge the metrics. Do they tell models that know recordings from models that never heard them, on this corpus?

The models are those of an audit's pairs, so all methods share the answer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.config.evaluation import trainings
from speechforget.config.inputs import code_of
from speechforget.data.requests.pool import HALVES, POOL, Pool, parts
from speechforget.stages.audit import pool_digest
from speechforget.stages.maker import Maker
from speechforget.stages.score_files import read_table
from speechforget.stages.split import Data
from speechforget.store import Artefact, write_json

POWER = "power.json"
VERSION = 1  # raise it whenever the same inputs give other judgements


def power(maker: Maker) -> Artefact:
    """Make or find the judgements of the metrics in `evaluation.metrics`."""
    pool = maker.pool
    assert pool is not None
    asked = {name: training for name, training in trainings(maker.config).items() if training.part is not None}
    models = maker.train_all(list(asked))
    scores = {name: maker.score(asked[name].stage, model) for name, model in models.items()}
    known = [scores[name] for name, training in asked.items() if training.part != POOL]
    unknown = [scores[name] for name, training in asked.items() if training.part == POOL]
    metrics = [str(path) for path in maker.config["evaluation"]["metrics"]]
    inputs = {
        "version": VERSION,
        "known": [each.key for each in known],
        "unknown": [each.key for each in unknown],
        "split": maker.data.key,
        "pool": pool_digest(maker.data, pool),
        "metrics": metrics,
        "code": code_of("power", *metrics),
    }

    def build(folder: Path, _: str) -> None:
        write_json(
            folder / POWER,
            judgements(maker.data, pool, [each.folder for each in known], [each.folder for each in unknown], metrics),
        )

    return maker.produce("power", "-".join([*maker.words, pool.name]), inputs, build)


def judgements(
    data: Data, pool: Pool, known: list[Path], unknown: list[Path], metrics: list[str]
) -> dict[str, dict[str, Any]]:
    """Judge every number of the metrics: name -> separation with its interval, false alarms, and whether it is weak.

    known: scores of the originals of pairs, in the order of `parts`; each knows its half. unknown: of the oracles of
    the pool, which take the halves in turns. The last oracle is the one that metrics compare with, and is not judged.
    """
    from speechforget.evaluation.compare import evaluate, resolve
    from speechforget.evaluation.power import judge

    *judged, reference = unknown
    found = {path: resolve(path) for path in metrics}
    halves = parts(len(pool.half))

    def values(folder: Path, part: str) -> dict[str, float]:
        tables = _tables(data, pool, part, folder, reference)
        return {name: value.value for name, value in evaluate(tables, "unlearned", found).items()}

    know = [values(folder, part) for folder, part in zip(known, halves, strict=True)]
    never = [values(folder, halves[place % len(halves)]) for place, folder in enumerate(judged)]
    return {
        name: {
            "separation": _number(one.separation.value),
            "low": _number(one.separation.low),
            "high": _number(one.separation.high),
            "false_alarms": _number(one.false_alarms.value),
            "weak": one.weak,
            "reason": one.separation.reason,
        }
        for name, one in judge(know, never).items()
        if name != "seconds"
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tables(data: Data, pool: Pool, part: str, model: Path, reference: Path) -> Any:
    """Join the scores of a model with roles: its half is forget, and the other half are the non-members."""
    from speechforget.evaluation.tables import Tables

    pair, half = int(part[:-1]), HALVES.index(part[-1])
    mine = pool.half[pair] == half
    role = data.table["subset"].to_numpy(dtype=str).astype("U10")
    role[role == "train"] = "retain"
    role[pool.rows[mine]], role[pool.rows[~mine]] = "forget", "holdout"
    nonmember: NDArray[np.bool_] = np.zeros(len(role), dtype=bool)
    nonmember[pool.rows[~mine]] = True

    own, oracle = (
        read_table(folder, data.numbers, role, nonmember, pool.withdrawn, math.nan) for folder in (model, reference)
    )
    return Tables(own, (oracle,), own, (), 0, data.speakers(pool.withdrawn), tuple(data.classes), data.confused)
