"""Folders of a user's checkpoint, in the form of speechforget and of Hugging Face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

FILES = ("model.json", "weights.safetensors")


def only(places: list[Path]) -> Path:
    (place,) = places
    return place


def result_of(output: Path) -> dict:
    return json.loads(only(list(output.glob("result/*/result.json"))).read_text())


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(source / name, target)
    return target


def hugging_face(folder: Path, **changes) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    described = {
        "architectures": ["HubertForSequenceClassification"],
        "model_type": "hubert",
        "id2label": {"0": "word0"},
    }
    (folder / "config.json").write_text(json.dumps({**described, **changes}))
