"""Pretrained weights: read or refused, stored without their checkpoint, part of the key, and in whole runs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.encoders import (
    CLASSES,
    HEADS,
    LIBRARY,
    RATE,
    RAW,
    ROOT,
    WHISPER,
    build,
    checkpoint,
    described,
    lively,
    noise,
    options,
    transformers,
)
from torch import Tensor

from speechforget import pipeline
from speechforget.errors import UserError
from speechforget.models import pretrained
from speechforget.models.folder import build_classifier, load_classifier, save_classifier
from speechforget.models.pretrained import fingerprint, labels_of, placeless

families = pytest.mark.parametrize("name", LIBRARY)


# What is read, and what is refused.


@families
def test_pretrained_weights_are_read_and_a_new_head_is_drawn(name: str, tmp_path: Path) -> None:
    library = checkpoint(tmp_path, name)
    first, second = (build(name, seed=seed, pretrained=str(tmp_path), layers="last") for seed in (0, 1))
    encoder = library.encoder if name.startswith("whisper") else getattr(library, library.base_model_prefix)
    theirs = encoder.state_dict()
    mine = first.encoder.state_dict()
    assert mine.keys() == theirs.keys() - {"masked_spec_embed"}
    assert all(
        torch.equal(mine[key], theirs[key]) and torch.equal(mine[key], second.encoder.state_dict()[key]) for key in mine
    )
    assert first.head.weight.shape == (CLASSES, first.head.in_features) and not torch.equal(
        first.head.weight, second.head.weight
    )
    assert first.head.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_bare_encoders_and_whole_whispers_are_read(tmp_path: Path) -> None:
    checkpoint(tmp_path / "classifier", "hubert_base").hubert.save_pretrained(tmp_path / "encoder")
    one, other = (
        build("hubert_base", pretrained=str(tmp_path / kind), normalise=True) for kind in ("classifier", "encoder")
    )
    assert torch.equal(one.eval()(*noise(RATE)).logits, other.eval()(*noise(RATE)).logits)
    assert labels_of(tmp_path / "encoder") is None or not (tmp_path / "encoder" / "preprocessor_config.json").exists()
    config = transformers.WhisperConfig(
        **WHISPER, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, vocab_size=40, pad_token_id=0
    )
    whole = transformers.WhisperForConditionalGeneration(config)
    whole.save_pretrained(tmp_path / "whole")
    model = build("whisper_tiny", pretrained=str(tmp_path / "whole"))
    assert torch.equal(model.encoder.layers[1].fc1.weight, whole.model.encoder.layers[1].fc1.weight)
    with pytest.raises(UserError, match="no classification head"):
        build("whisper_tiny", pretrained=str(tmp_path / "whole"), head="keep")


def test_normalisation_is_the_checkpoint_s(tmp_path: Path) -> None:
    checkpoint(tmp_path, "wavlm_base", extractor={"do_normalize": False})
    assert not build("wavlm_base", pretrained=str(tmp_path)).frontend.normalise
    said = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    assert build("wavlm_base", pretrained=str(tmp_path)).frontend.normalise
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": said}))
    assert not build("wavlm_base", pretrained=str(tmp_path)).frontend.normalise
    assert build("wavlm_base", pretrained=str(tmp_path), normalise=True).frontend.normalise


def test_context_keeps_the_published_positions() -> None:
    whole, short = build("whisper_tiny", context=1.0), build("whisper_tiny", context=0.5)
    assert torch.equal(short.encoder.embed_positions.weight, whole.encoder.embed_positions.weight[:25])
    whole, short = lively(build("ast", context=0.64)), build("ast", context=0.32)
    short.load_state_dict(
        {**whole.state_dict(), "encoder.embeddings.position_embeddings": short.encoder.embeddings.position_embeddings}
    )
    assert (
        short.encoder.embeddings.position_embeddings.shape[1] == 2 + 5 * 2
    )  # five of bands, (32 - 16) // 10 + 1 of frames
    for name in ("whisper_tiny", "ast"):
        with pytest.raises(UserError, match=r"model\.context"):
            build(name, context=2.0)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tune": "lorra"}, "did you mean 'lora'"),
    ({"layers": "first"}, "model.layers=first"),
    ({"head": "keep"}, "no classification head|set model.pretrained"),
    ({"lora": {"rang": 4}, "tune": "lora"}, "did you mean 'rank'"),
    ({"lora": {"targets": ["nothing"]}, "tune": "lora"}, "nothing"),
    ({"dropout": {"hiden": 0.1}}, "did you mean 'hidden'"),
    ({"architecture": {"hiden_size": 3}}, "did you mean 'hidden_size'"),
    ({"architecture": {"conv_pos_batch_norm": True}}, "batch norm that cannot leave padding out"),
    ({"pretrained": "./nowhere"}, "There is no model.pretrained"),
    ({"gradient_checkpointing": 3}, "must be of the type 'bool'"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("hubert_base", **changes)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "hubert_base")
    with pytest.raises(UserError, match="holds a hubert, not a wavlm"):
        build("wavlm_base", pretrained=str(tmp_path))
    with pytest.raises(UserError, match="has 7 classes, and the dataset has 8"):
        build("hubert_base", classes=8, pretrained=str(tmp_path), head="keep")
    with pytest.raises(UserError, match=r"model\.layers=weighted"):
        build("hubert_base", pretrained=str(tmp_path), head="keep", layers="weighted")
    with pytest.raises(UserError, match=r"set dataset\.sample_rate=16000"):
        build_classifier(options("hubert_base", pretrained=str(tmp_path)), CLASSES, 8000)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {key: value for key, value in weights.items() if "layers.1.feed_forward" not in key},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UserError, match="lacks weights of the encoder"):
        build("hubert_base", pretrained=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a hubert"):
        build("hubert_base", pretrained=str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold weights"):
        fingerprint({"pretrained": str(tmp_path)})


@pytest.mark.parametrize(("missing", "changes"), [("transformers", {}), ("peft", {"tune": "lora"})])
def test_a_missing_package_is_one_sentence(
    missing: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf'{missing}.*pip install -e "\.\[pretrained\]"'):
        build("hubert_base", **changes)


# Stored, found again, and told apart.


@families
def test_a_model_is_built_again_without_its_checkpoint(name: str, tmp_path: Path) -> None:
    asked = options(name, pretrained=str(tmp_path / "checkpoint"), head="keep")
    checkpoint(tmp_path / "checkpoint", name, extractor={} if name.startswith("whisper") else {"do_normalize": False})
    model = build_classifier(asked, CLASSES, RATE).eval()
    (tmp_path / "model").mkdir()
    save_classifier(tmp_path / "model", model, described(asked))
    (tmp_path / "checkpoint").rename(tmp_path / "elsewhere")
    assert str(tmp_path) not in (tmp_path / "model" / "model.json").read_text()
    again, description = load_classifier(tmp_path / "model")
    assert torch.equal(again(*noise(RATE, 5000)).logits, model(*noise(RATE, 5000)).logits)
    save_classifier(tmp_path / "model", copy.deepcopy(again), description)
    assert load_classifier(tmp_path / "model")[1] == description
    fresh = build_classifier(description["model"], CLASSES, RATE)  # what bad teaching's ignorant teacher is
    shared = [
        key
        for key, value in fresh.state_dict().items()
        if value.dim() > 1 and torch.equal(value, model.state_dict()[key])
    ]
    assert not shared


def test_the_fingerprint_is_of_bytes_and_not_of_places(tmp_path: Path) -> None:
    checkpoint(tmp_path / "one", "hubert_base")
    model = {"pretrained": str(tmp_path / "one"), "revision": "main", "tune": "whole"}
    first = fingerprint(model)
    assert first is not None and set(first) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    (tmp_path / "one").rename(tmp_path / "two")
    moved = {**model, "pretrained": str(tmp_path / "two")}
    assert fingerprint(moved) == first and placeless(moved) == placeless(model) == {
        "pretrained": None,
        "revision": None,
        "tune": "whole",
    }
    weights = tmp_path / "two" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert fingerprint(moved) != first
    with pytest.raises(UserError, match="give the file of a state dict"):
        fingerprint({"pretrained": "weights.pt", "bundle": "HUBERT_BASE"})
    assert (
        fingerprint({"pretrained": None}) is None
        and fingerprint({}) is None
        and placeless({"width": 3}) == {"width": 3}
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a hub's cache without a network; hub(commit) -> the folder of that commit of somebody/hubert, now `main`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pretrained._commit.cache_clear()
    place = tmp_path / "hub" / "models--somebody--hubert"

    def hold(commit: str) -> Path:
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return place / "snapshots" / commit

    return hold


def test_a_name_of_the_hub_is_found_in_the_cache(hub: Callable[[str], Path]) -> None:
    commit, older = "a" * 40, "b" * 40
    library = checkpoint(hub(commit), "hubert_base")
    asked = options("hubert_base", pretrained="somebody/hubert")
    assert fingerprint(asked) == {"commit": commit}
    assert fingerprint({**asked, "revision": older}) == {"commit": older}
    model = build_classifier(asked, CLASSES, RATE)
    assert torch.equal(
        model.encoder.feature_projection.projection.weight, library.hubert.feature_projection.projection.weight
    )


def test_what_cannot_be_fetched_is_no_random_model(hub: Callable[[str], Path]) -> None:
    for asked in (
        options("hubert_base", pretrained="somebody/nothing"),
        options("hubert_base", pretrained="somebody/nothing", revision="c" * 40),
    ):
        with pytest.raises(
            UserError,
            match=r"model\.pretrained=somebody/nothing cannot be fetched.*model\.pretrained=null for random weights",
        ):
            build_classifier(asked, CLASSES, RATE)


# Whole runs.


def tiny_run(folder: Path, *more: str) -> list[str]:
    numbers = {**RAW, "model_type": "hubert"}
    return [
        "model=hubert_base",
        *(f"++model.architecture.{name}={value}".replace(" ", "") for name, value in numbers.items()),
        "model.projection=8",
        "train.epochs=1",
        "train.warmup=0",
        "train.learning_rate=0.001",
        f"output={folder}",
        *more,
    ]


def model_of(output: Path, stage: str) -> dict[str, Tensor]:
    (path,) = output.glob(f"{stage}/*/weights.safetensors")
    return load_file(path)


@pytest.mark.slow
def test_a_whole_run_of_random_weights(configure: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    chosen = ["model.pretrained=null", "model.tune=lora", "method=bad_teaching", "method.epochs=1"]
    pipeline.run(configure(*tiny_run(tmp_path, *chosen)))
    original, unlearned = (model_of(tmp_path, stage) for stage in ("original", "unlearned"))
    moved = {key for key in original if not torch.equal(original[key], unlearned[key])}
    assert moved and all("lora_" in key or key.startswith(HEADS) for key in moved)


def test_original_and_oracle_start_from_the_same_checkpoint(
    configure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    library = checkpoint(tmp_path / "checkpoint", "hubert_base")
    overrides = tiny_run(
        tmp_path / "one", f"model.pretrained={tmp_path / 'checkpoint'}", "method=none", "dataset.sample_rate=16000"
    )
    pipeline.run(configure(*overrides, "train.learning_rate=0.0", "seed=1"))
    original, oracle = (model_of(tmp_path / "one", stage) for stage in ("original", "oracle"))
    assert original.keys() == oracle.keys() and all(torch.equal(original[key], oracle[key]) for key in original)
    theirs = library.hubert.state_dict()
    assert all(torch.equal(original[f"encoder.{key}"], theirs[key]) for key in theirs if key != "masked_spec_embed")
    (inputs,) = (path.read_text() for path in (tmp_path / "one").glob("original/*/inputs.json"))
    assert (
        str(tmp_path / "checkpoint") not in inputs and json.loads(inputs)["inputs"]["pretrained"]["model.safetensors"]
    )
    names = {path.name for path in (tmp_path / "one").glob("o*/*") if path.is_dir()}
    (tmp_path / "checkpoint").rename(tmp_path / "moved")
    moved = tiny_run(
        tmp_path / "one", f"model.pretrained={tmp_path / 'moved'}", "method=none", "dataset.sample_rate=16000"
    )
    pipeline.run(configure(*moved, "train.learning_rate=0.0", "seed=1"))
    assert {path.name for path in (tmp_path / "one").glob("o*/*") if path.is_dir()} == names


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hubert_base", "wavlm_base"])
def test_two_processes_give_what_one_gives(
    model: str, command: Callable[..., Any], small: list[str], tmp_path: Path
) -> None:
    chosen = [word for word in small if not word.startswith("model.")]
    asked = [
        "model.pretrained=null",
        "model.gradient_checkpointing=true",
        "method=finetune",
        "method.epochs=1",
        "trainer.precision=64-true",
    ]
    for devices in (1, 2):
        arguments = [f"model={model}", *tiny_run(tmp_path / str(devices), *asked, f"trainer.devices={devices}")[1:]]
        arguments.remove("++model.architecture.model_type=hubert")
        found = command(*chosen, *arguments)
        assert found.returncode == 0, found.stderr
    for stage in ("original", "unlearned"):
        one, two = (model_of(tmp_path / str(devices), stage) for devices in (1, 2))
        assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-9) for key in one)


def test_keys_need_neither_torch_nor_transformers(tmp_path: Path) -> None:
    checkpoint(tmp_path, "hubert_base")
    code = "import sys; from speechforget.models.pretrained import fingerprint, labels_of; place = sys.argv[1]"
    code += "; print(fingerprint({'pretrained': place}), labels_of(place))"
    code += "; print('heavy' if {'torch', 'transformers'} & set(sys.modules) else 'light')"
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.splitlines()[-1] == "light" and "word6" in found.stdout
