"""Find the model that a result delivers, or another model that it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.errors import UserError, nearest

MODELS = ("unlearned", "oracle", "original")


class Model(NamedTuple):
    """Name a model of a result. name: one of `MODELS`. folder: of its artefact."""

    name: str
    folder: Path


def delivered(record: dict[str, Any]) -> str:
    """Return which model a result delivers; results of older code deliver the unlearned one."""
    return str(record.get("delivered", MODELS[0]))


def model_of(result: Path, asked: str | None = None) -> Model:
    """Find a model of a result folder in its output folder; None: the one that the result delivers.

    Raises UserError if the result cannot be read or compares no such model, and if the model is missing, such as beside
    a copied result.
    """
    if asked not in {None, *MODELS}:
        raise UserError(f"There is no model '{asked}' in a result: {nearest(str(asked), MODELS)}.")
    try:
        record = json.loads((result / "result.json").read_text(encoding="utf-8"))
        name = asked or delivered(record)
        artefact = record["artefacts"][name] if name == MODELS[0] else record["artefacts"].get(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{result / 'result.json'} cannot be read ({error!r}): copy the result again, or make it again."
        ) from error
    if artefact is None:
        raise UserError(f"{result} was compared without an {name}: choose another model, or repeat the run with one.")
    folders = [own.parent.parent / name / str(artefact) for own in (result.absolute(), result.resolve())]
    for folder in folders:
        if (folder / "model.json").exists():
            return Model(name, folder)
    raise UserError(
        f"{result} is a result, but its model is missing: a result holds numbers only. "
        f"Copy the folder {name}/{artefact} of the same output folder to {folders[0]}, or load that folder itself."
    )
