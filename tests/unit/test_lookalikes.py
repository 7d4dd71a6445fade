"""What is given in place of a model: each is told what it is, as an original and as pretrained weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechforget.errors import UserError
from speechforget.models.checkpoint import read_checkpoint
from speechforget.models.pretrained import fingerprint

CONFIG = {
    "architectures": ["HubertForSequenceClassification"],
    "model_type": "hubert",
    "id2label": {"0": "yes", "1": "no"},
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 378000000\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def adapter(folder: Path) -> None:
    write(folder, adapter_config__json='{"peft_type": "LORA"}', adapter_model__safetensors="weights")


def adapter_beside_a_config(folder: Path) -> None:
    adapter(folder)
    write(folder, config__json=json.dumps(CONFIG))


def of_a_training(folder: Path) -> None:
    for step in (500, 1000):
        write(folder / f"checkpoint-{step}", config__json=json.dumps(CONFIG), model__safetensors="weights")
    write(folder / "runs", log="")


def of_an_adapters_training(folder: Path) -> None:
    adapter(folder / "checkpoint-20")


def of_an_output(folder: Path) -> None:
    write(folder / "espeak-word-tcresnet-seed0-0123456789ab", model__json="{}", weights__safetensors="weights")


def pointer(folder: Path) -> None:
    write(folder, config__json=json.dumps(CONFIG), model__safetensors=POINTER)


def pointer_in_parts(folder: Path) -> None:
    parts = json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    write(
        folder,
        config__json=json.dumps(CONFIG),
        **{"model__safetensors.index.json": parts, "model-1__safetensors": POINTER},
    )


def nothing(folder: Path) -> None:
    write(folder / "notes", readme__txt="")


LOOKALIKES: list[tuple[Callable[[Path], None], str]] = [
    (adapter, r"only an adapter of peft: merge it"),
    (adapter_beside_a_config, r"only an adapter of peft: merge it"),
    (of_a_training, r"\(checkpoint-1000 and 1 more\): give one of them, such as .+/checkpoint-1000\.$"),
    (of_an_adapters_training, r"\(checkpoint-20\): give one of them"),
    (of_an_output, r"give one of them, such as .+-0123456789ab\.$"),
    (pointer, r"model\.safetensors is a pointer of git-lfs, .+ `git lfs pull`"),
    (pointer_in_parts, r"model-1\.safetensors is a pointer of git-lfs"),
    (nothing, r"name another folder|save_pretrained wrote"),
]


@pytest.mark.parametrize("use", ["original", "pretrained"])
@pytest.mark.parametrize(("make", "words"), LOOKALIKES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_model_is_told_what_it_is(
    make: Callable[[Path], None], words: str, use: str, tmp_path: Path
) -> None:
    make(tmp_path / "given")
    given = str(tmp_path / "given")
    model: dict[str, Any] = {"name": "hubert_base", "architecture": {"model_type": "hubert"}, "pretrained": given}
    with pytest.raises(UserError, match=words):
        if use == "pretrained":
            fingerprint(model)
        else:
            read_checkpoint(
                {"original": {"checkpoint": given, "labels": None}, "model": model, "dataset": {"sample_rate": 16000}}
            )


def test_a_pointer_in_place_of_our_weights_or_of_a_bundles_is_told(tmp_path: Path) -> None:
    model = {"_target_": "some.Model", "name": "some"}
    write(
        tmp_path,
        weights__safetensors=POINTER,
        model__json=json.dumps({"model": model, "labels": ["a", "b"], "sample_rate": 16000}),
    )
    with pytest.raises(UserError, match="pointer of git-lfs"):
        read_checkpoint(
            {
                "original": {"checkpoint": str(tmp_path), "labels": None},
                "model": model,
                "dataset": {"sample_rate": 16000},
            }
        )
    with pytest.raises(UserError, match="pointer of git-lfs"):
        fingerprint({"pretrained": str(tmp_path / "weights.safetensors"), "bundle": "HUBERT_BASE"})
