"""Stage: run one attack on one model, in one process, in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from speechforget.attacks.base import ROLES, Outputs, Rows, Scored, Subject
from speechforget.config.instantiate import instantiate_target
from speechforget.data.batches.keys import Keys
from speechforget.data.batches.planted import Planted
from speechforget.data.batches.streams import Stream
from speechforget.data.batches.trigger import Trigger
from speechforget.data.batches.triggered import Triggered
from speechforget.data.batches.waveforms import Waveforms
from speechforget.data.requests.select import Request
from speechforget.errors import UserError
from speechforget.evaluation.tables import Value
from speechforget.models.folder import load_classifier
from speechforget.stages.attack_values import write_values
from speechforget.stages.score_files import read_scores
from speechforget.stages.sources import make_waveforms, open_recordings
from speechforget.stages.split import Data
from speechforget.store import verified, write_json
from speechforget.training.cost_meter import Cost
from speechforget.training.device import start_process
from speechforget.training.finite import Watch

VERSION = 2  # raise it whenever the same inputs give other values
AHEAD = 4  # batches that a thread reads ahead where recordings are read on demand


def run_attack(
    folder: Path,
    model: Path,
    scores: Path,
    config: Mapping[str, Any],
    data: Data,
    request: Request,
    options: Mapping[str, Any],
) -> None:
    """Run the attack that `options` describes on the model of a folder; write its values and its cost to `folder`.

    scores: the folder of the model's scores.

    Raises UserError for options that the attack does not take, and Diverged if outputs of the model are not finite.
    """
    device = start_process({**config["trainer"], "precision": "32-true"})
    attack = instantiate_target(options, "evaluation.attacks")
    for name in ("weights.safetensors", "model.json"):
        verified(model, name)
    classifier, _ = load_classifier(model)
    cost = Cost()
    subject = make_subject(cost.watch(classifier.to(device)), config, data, request, scores)
    with cost, Watch(f"The model {model.name}").watched(f"when {options['_target_']} attacked it"):
        values = attack(subject)
    write_values(folder, str(options["_target_"]), checked(values, str(options["_target_"])))
    write_json(folder / "cost.json", cost.record())


def make_subject(
    classifier: nn.Module, config: Mapping[str, Any], data: Data, request: Request, scores: Path | None = None
) -> Subject:
    """Return what an attack sees of a classifier. Withdrawn utterances have no role.

    scores: the folder of its scores, if there is one.
    """
    dataset, table = config["dataset"], data.table
    recordings = open_recordings({**dataset, "resident": "host"}, data, None)
    waveforms = make_waveforms(dataset, data, recordings)
    depth = AHEAD if dataset["cache"] == "none" else 0
    forget = np.zeros(len(table), dtype=np.bool_)
    forget[request.forget] = True
    everything = Stream(waveforms, data.numbers, forget, np.arange(len(table)), 1, depth=depth)
    return Subject(
        classifier.eval(),
        partial(_stream, everything),
        data.numbers,
        np.unique(table["unit"], return_inverse=True)[1],
        table["speaker"].to_numpy(dtype=str) if "speaker" in table and (table["speaker"] != "").any() else None,
        roles(data, request),
        tuple(data.classes),
        dataset["label"],
        tuple(data.classes.index(name) for name in request.forgotten),
        int(config["seed"]),
        planted=Planted(waveforms, waveforms.added) if isinstance(waveforms.added, Keys) else None,
        triggered=_triggered(waveforms, data),
        taught=data.taught,
        scored=None if scores is None else _scored(scores, waveforms.length, waveforms.samples, dataset["windows"]),
        attribute=None if request.attribute is None else request.attribute.values,
    )


def _triggered(waveforms: Waveforms, data: Data) -> Triggered | None:
    """Return the reader of utterances with the trigger, if some training utterances carry one."""
    trigger = waveforms.added
    if not isinstance(trigger, Trigger):
        return None
    return Triggered(waveforms, trigger, int(data.taught[trigger.carried][0]))


def _scored(folder: Path, length: Rows, samples: int, windows: int) -> Scored:
    """Read the outputs of a score table. A longer utterance that was scored by several windows is no middle crop."""
    columns = read_scores(folder)
    if not np.array_equal(columns["row"], np.arange(len(length))):
        raise RuntimeError(f"{folder} does not hold the utterances of this corpus")
    return Scored(Outputs(columns["logits"], columns["embedding"]), (length <= samples) | (windows == 1))


def _stream(everything: Stream, rows: Rows, size: int) -> Stream:
    return replace(everything, rows=rows, batch_size=size)


def roles(data: Data, request: Request) -> dict[str, Rows]:
    """Return the rows of each of `ROLES`, ascending."""
    rows = {name: np.setdiff1d(data.rows(name), request.withdrawn) for name in ("validation", "holdout", "test")}
    rows |= {"forget": np.sort(request.forget), "retain": request.retain(data.table)}
    rows["nonmembers"] = np.sort(request.nonmembers)
    return {name: rows[name] for name in ROLES}


def checked(values: Any, target: str) -> dict[str, Value]:
    """Return the values of an attack. Raises UserError if they are not finite values by name, or lack a reason."""
    if not isinstance(values, Mapping) or not all(isinstance(value, Value) for value in values.values()):
        raise UserError(f"The attack {target} must return a dict of speechforget.evaluation.tables.Value.")
    for name, value in values.items():
        if not math.isfinite(value.value) and not value.reason:
            raise UserError(f"The attack {target} gives no finite {name} and no reason: let it return a reason.")
    return dict(values)
