"""Read what a run starts from that continues a finished result: its delivered model, checked against this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from speechforget.config.inputs import decisive
from speechforget.config.oracle import has_oracle
from speechforget.data.requests.past import Past
from speechforget.errors import UserError
from speechforget.models.checkpoint import check_model
from speechforget.models.delivered import model_of
from speechforget.record.folders import Outputs
from speechforget.stages.split import Data
from speechforget.store import Artefact, differences, verified
from speechforget.store.files import read_json
from speechforget.store.manifest import read_done

SHOWN = 3
MadeFrom = dict[str, tuple[str, Mapping[str, Any]]]  # key of each artefact -> its stage and inputs


class Start(NamedTuple):
    """Hold the model to continue with. made_from: the key of it and of its ancestors -> stage and inputs."""

    model: Artefact
    made_from: MadeFrom


def read_start(result: Path, config: Mapping[str, Any], data: Data, past: Past) -> Start:
    """Find the model that a result delivers.

    Raises UserError if it is missing or damaged, or if corpus, model or recipe of this run are others than its own.
    """
    folder = model_of(result).folder
    done = read_done(folder)
    if done is None:
        raise UserError(f"{folder} is not finished: run the command of {result} again.")
    for name in ("weights.safetensors", "model.json"):
        verified(folder, name)
    recorded = read_json(result / "about.json").get("config") or {}
    check_model(folder, read_json(folder / "model.json")["model"], config["model"])
    if has_oracle(config):
        _check_recipe(result, recorded.get("train"), config["train"])
    outputs = Outputs(result.absolute().parent.parent)
    _check_split(result, outputs, data, past)
    return Start(Artefact(folder, done["key"], built=False), dict(_made_from(outputs, folder)))


def _made_from(outputs: Outputs, folder: Path) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """Yield key, stage and inputs of an artefact and of what it was made from, parents first."""
    for parent in outputs.parents(folder):
        yield from _made_from(outputs, parent)
    yield outputs.key(folder), (folder.parent.name, outputs.inputs(folder))


def _check_recipe(result: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise UserError if the oracle would be trained by another recipe than the first original."""
    if not before:
        return
    changes = list(differences(decisive("train", before), decisive("train", now)))
    if changes:
        told = " ".join(f"train.{path}={value}" for path, value, _ in changes[:SHOWN])
        raise UserError(
            f"The models of {result} were trained by another recipe than this run's, so its oracle would not be "
            f"comparable: add {told}, or oracle=none."
        )


def _check_split(result: Path, outputs: Outputs, data: Data, past: Past) -> None:
    """Raise UserError unless every recording is in the subset it was in; what was forgotten may be gone."""
    scores = outputs.find("scores", str((outputs.inputs(result).get("scores") or {}).get("unlearned")))
    key = outputs.inputs(scores)["split"] if scores is not None else None
    if key == data.key:
        return
    split = None if key is None else outputs.find("split", key)
    if split is None:
        raise UserError(
            f"The corpus is not that of {result}, and the split of that run is missing, so nothing shows that both "
            "have the same training recordings: copy its output folder whole."
        )
    before = pd.read_csv(verified(split, "utterances.csv"), dtype=str, keep_default_na=False).set_index("id")
    now = data.table.set_index("id")
    forgotten = {identity for each in past.requests for identity in each.ids}
    gone = [each for each in before.index.difference(now.index) if each not in forgotten]
    trained = [each for each in gone if before.loc[each, "subset"] == "train"]
    more, shared = now.index.difference(before.index), now.index.intersection(before.index)
    moved = [
        each
        for each, old, new in zip(shared, before.loc[shared, "subset"], now.loc[shared, "subset"], strict=True)
        if old != new
    ]
    for found, what in (
        (trained, "lacks {} that its models were trained on and no request names"),
        (list(more), "holds {} that its models never heard"),
        (moved, "holds {} that were in another subset"),
    ):
        if found:
            told = what.format(f"{len(found)} recordings")
            raise UserError(
                f"The corpus is not that of {result}: it {told}, first '{found[0]}'. Restore it, or take the "
                f"forgotten recordings out and nothing else."
            )
