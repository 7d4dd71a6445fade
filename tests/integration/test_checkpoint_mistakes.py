"""Checkpoints that cannot be an original: one sentence, and nothing is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.user_checkpoints import FILES, copied, hugging_face

from speechforget import pipeline
from speechforget.config.validate import check
from speechforget.errors import UserError


def described(checkpoint: Path, **changes) -> None:
    path = checkpoint / FILES[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_weights(folder: Path) -> None:
    weights = folder / FILES[1]
    weights.write_bytes(weights.read_bytes()[:-100])


def ruined(folder: Path) -> None:
    weights = load_file(folder / FILES[1])
    weights["head.weight"][0, 0] = torch.nan
    save_file(weights, folder / FILES[1])


def flipped_after_done(folder: Path) -> None:
    import hashlib

    weights = folder / FILES[1]
    data = bytearray(weights.read_bytes())
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "DONE").write_text(json.dumps({"key": "0" * 64, "files": {FILES[1]: record}}))
    data[-3] ^= 1
    weights.write_bytes(data)


def hugging_face_in_parts(folder: Path) -> None:
    hugging_face(folder, id2label={str(number): f"word{number}" for number in range(4)})
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    (folder / "model-1.safetensors").write_bytes(b"")


MISTAKES = {
    "missing": (shutil.rmtree, "does not exist"),
    "empty": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        "neither a model of speechforget .* nor one of Hugging Face",
    ),
    "no weights": (lambda folder: (folder / FILES[1]).unlink(), "has no weights.safetensors"),
    "no json": (lambda folder: (folder / FILES[0]).write_text("{"), "model.json cannot be read"),
    "other json": (lambda folder: (folder / FILES[0]).write_text("{}"), "is not what a run of speechforget writes"),
    "cut": (cut_weights, "cannot be read as weights of this model"),
    "flipped": (flipped_after_done, "is damaged, weights.safetensors has other bytes"),
    "no numbers": (ruined, "not numbers"),
    "other labels": (
        lambda folder: described(folder, labels=["yes", "no", "up", "word3"]),
        "does not know 'word0', 'word1', 'word2' of the corpus",
    ),
    "more labels": (
        lambda folder: described(folder, labels=["word0", "word1", "word2", "word3", "word4"]),
        "also has outputs for 'word4'",
    ),
    "same labels": (
        lambda folder: described(folder, labels=["word0", "word0", "word2", "word3"]),
        "the name 'word0'",
    ),
    "sample rate": (lambda folder: described(folder, sample_rate=16000), "set dataset.sample_rate=16000"),
    "other options": (
        lambda folder: described(folder, model={"_target_": "speechforget.models.tcresnet.TCResNet", "bands": 20}),
        r"model.bands=20",
    ),
    "other model": (lambda folder: described(folder, model={"name": "big", "_target_": "a.b"}), "set model=big"),
    "a part is missing": (hugging_face_in_parts, "model-2.safetensors cannot be read"),
    "no classifier": (
        lambda folder: hugging_face(folder, architectures=["HubertModel"]),
        "HubertModel, which is not a classifier",
    ),
    "other library": (hugging_face, "set model= to one for hubert"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(name: str, checkpoint: Path, configure, tmp_path: Path) -> None:
    spoil, words = MISTAKES[name]
    other = copied(checkpoint, tmp_path / "other")
    spoil(other)
    config = configure(
        f"output={tmp_path / 'output'}",
        f"original.checkpoint={other}",
        *(["model=hubert_base"] if "part" in name else []),
    )
    check(config)
    with pytest.raises(UserError, match=words) as raised:
        pipeline.run(config)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert not list((tmp_path / "output").glob("original/*"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["oracle=maybe"], "no oracle=maybe"),
        (["oracle=none", "only=oracle"], "oracle=train"),
        (["original.checkpoint=somewhere", "only=oracle"], "oracle=train"),
        (["original.labels=[a]"], "original.checkpoint"),
        (["original.checkpoint=7"], "must be a folder"),
        (["original.checkpoint=somewhere", "original.labels=a"], "must be a list"),
    ],
)
def test_wrong_configs_are_refused(overrides: list[str], words: str, configure) -> None:
    with pytest.raises(UserError, match=words):
        check(configure(*overrides))


def test_a_mistake_on_the_command_line_ends_in_one(command, small, tmp_path: Path) -> None:
    run = command(*small, f"output={tmp_path}", f"original.checkpoint={tmp_path / 'nowhere'}")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert [line for line in run.stderr.splitlines() if line.startswith("Error: ")] and "does not exist" in run.stderr
