"""Describe a result beside its numbers: what was compared, and what tells it from other results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.identity import attack_facts, corpus_facts, metric_facts, models_facts, request_facts
from speechforget.config.oracle import delivered_by, why_no_oracle
from speechforget.data.requests.options import counted
from speechforget.data.requests.select import Request
from speechforget.models.checkpoint import Checkpoint
from speechforget.report.caveats import caveats, delivery
from speechforget.stages.exact import exactness
from speechforget.stages.split import Data
from speechforget.store import Artefact, provenance
from speechforget.tracking.loggers import words_of

VERSION = 2  # results of version 1 have no flags and no identity


def describe_result(
    config: Mapping[str, Any],
    data: Data,
    request: Request,
    models: Mapping[str, Artefact],
    checkpoint: Checkpoint | None,
    untried: str | None,
) -> dict[str, Any]:
    """Return what `result.json` says beside the numbers. untried: why the numbers of the method may not suit it."""
    about, exact = provenance(), exactness(config, models)
    return {
        **dict(zip(("dataset", "label", "model"), words_of(config), strict=True)),
        "task": counted(config["task"]),
        "method": config["method"]["name"],
        "minimised": config["evaluation"]["objective"],
        "seed": int(config["seed"]),
        "delivered": delivered_by(config),
        "request": request.to_json(data.table),
        "holdout": bool(len(data.rows("holdout"))),
        "artefacts": {
            "original": None,
            "oracle": None,
            **{name: artefact.folder.name for name, artefact in models.items()},
        },
        "cost": {name: artefact.cost for name, artefact in models.items()},
        "no_oracle": why_no_oracle(config),
        "notes": [*delivery(config), *caveats(config, checkpoint), *exact.notes, *request.notes],
        "untried": untried,
        "exact": exact.shown,
        "versions": about["versions"],
        "commit": about["commit"],
    }


def identity(
    config: Mapping[str, Any],
    data: Data,
    made_from: Mapping[str, tuple[str, Mapping[str, Any]]],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what distinguishes results in a report: models, request and metrics without seeds, and the seeds.

    made_from: the key of each artefact -> its stage and inputs. inputs: of the result.
    """
    dataset, task = config["dataset"], config["task"]
    made = {data.key: ("split", data.inputs), **made_from}
    return {
        **models_facts(made, corpus_facts(dataset, data.audio.steady), inputs["scores"]),
        "request": request_facts(counted(task)),
        "metrics": metric_facts(VERSION, inputs["metrics"]) | attack_facts(config["evaluation"]["attacks"]),
        "utterances": [inputs["request"], inputs["nonmembers"]],
        "seeds": {
            "seed": int(config["seed"]),
            "task.seed": int(task["seed"]),
            "dataset.split_seed": int(dataset["split_seed"]),
        },
    }
