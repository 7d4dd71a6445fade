"""Stage: make the original from a user's checkpoint, or from the model that an earlier run delivers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.config.inputs import code_of, decisive, targets_in, version_of
from speechforget.data.requests.past import Past, mark_model
from speechforget.errors import UserError
from speechforget.models.checkpoint import UNMADE, Checkpoint, check_labels
from speechforget.stages.continued import read_start
from speechforget.stages.maker import Maker
from speechforget.store import Artefact, verified, write_json

VERSION = 1  # of an original that is the model of an earlier run


def is_imported(maker: Maker) -> bool:
    """Return whether the original is not trained by this run."""
    original = maker.config["original"]
    return maker.before is not None or any(original.get(name) is not None for name in ("checkpoint", "result"))


def imported(maker: Maker, checkpoint: Checkpoint | None) -> Artefact:
    """Make the original of a run that does not train it, in this process, however many devices there are.

    checkpoint: of the user, if the run starts from one.
    """
    if maker.before is not None:
        return _continue(maker, maker.before.delivered())
    if (result := maker.config["original"].get("result")) is not None:
        start = read_start(Path(result).expanduser(), maker.config, maker.data, maker.request.past)
        maker.made_from |= {key: made for key, made in start.made_from.items() if key not in maker.made_from}
        return _continue(maker, start.model)
    assert checkpoint is not None
    return _import(maker, checkpoint)


def _continue(maker: Maker, model: Artefact) -> Artefact:
    """Copy the model of an earlier run as the original of this one, with the list of what it has forgotten."""
    past = maker.request.past
    inputs = {"version": VERSION, "continues": model.key, "split": maker.data.key, **_past_inputs(past)}

    def build(folder: Path, _: str) -> None:
        for name in ("weights.safetensors", "model.json"):
            shutil.copyfile(verified(model.folder, name), folder / name)
        mark_model(folder, past.requests)
        write_json(folder / "cost.json", {"of": "importing", "seconds": 0.0})

    name = "-".join([*maker.words, f"after{len(past.requests)}", f"seed{maker.seed}"])
    return maker.produce("original", name, inputs, build)


def _import(maker: Maker, checkpoint: Checkpoint) -> Artefact:
    classes, model, hearing, past = maker.data.outputs, maker.config["model"], maker.hearing, maker.request.past
    check_labels(checkpoint, classes)
    inputs = {
        "version": version_of("import_checkpoint"),
        "checkpoint": checkpoint.digest,
        "labels": list(checkpoint.labels),
        "classes": classes,
        "hearing": hearing,
        "model": {name: value for name, value in decisive("model", model).items() if name not in UNMADE},
        "code": code_of("original of a checkpoint", *targets_in(model)),
        **_past_inputs(past),
    }

    def build(folder: Path, _: str) -> None:
        from speechforget.stages.import_checkpoint import import_checkpoint

        try:
            import_checkpoint(folder, checkpoint, classes, maker.config["dataset"], model)
            if checkpoint.digest != inputs["checkpoint"]:
                raise UserError(f"{checkpoint.folder} changed while it was read: run the same command again.")
        except UserError:
            shutil.rmtree(folder)  # it can never be resumed
            raise
        if past:
            mark_model(folder, past.requests)

    return maker.produce("original", "-".join([*maker.words, "checkpoint"]), inputs, build)


def _past_inputs(past: Past) -> Mapping[str, Any]:
    """Tell what an original has forgotten, because it says so to later runs."""
    ids = sorted(identity for each in past.requests for identity in (*each.ids, *each.classes))
    return {"past": hashlib.sha256("\n".join(ids).encode()).hexdigest()} if past else {}
