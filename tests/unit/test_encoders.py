"""Classifiers on pretrained encoders: the protocol of every yaml, equality with their libraries, and what learns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.encoders import (
    CLASSES,
    FAMILIES,
    HEADS,
    LIBRARY,
    RATE,
    YAMLS,
    build,
    checkpoint,
    composed,
    extractor_of,
    lively,
    noise,
    options,
    relative,
    transformers,
)
from support.frames import check_head, joined, labels_for
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.batch import Batch
from speechforget.distributed.dropout import drawn_for
from speechforget.errors import UserError
from speechforget.methods.common.losses import cross_entropy
from speechforget.models.folder import build_classifier, load_classifier, save_classifier
from speechforget.models.pretrained import fingerprint, labels_of
from speechforget.models.torchaudio_bundle import BUNDLES
from speechforget.optimizers import make_optimizer
from speechforget.stages.preflight import build_without_weights

# These are the encoder of one model with the head of another.
TWICE = {"hubert_ctc", "wavlm_ctc"}
models = pytest.mark.parametrize(
    "yaml",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in TWICE else [], id=path.stem) for path in YAMLS],
)


# What tests/test_models.py asks of every other model.


@models
def test_output_and_head(yaml: Path) -> None:
    model = build(yaml.stem).eval()
    assert options(yaml.stem)["name"] == yaml.stem
    output = model(*noise(RATE, 9000, 5000))
    assert isinstance(model.head, nn.Linear)
    check_head(model, output, (RATE, 9000, 5000))


@models
@pytest.mark.parametrize("layers", ["last", "weighted"])
def test_layers_hold_every_weight_once_and_come_in_execution_order(yaml: Path, layers: str) -> None:
    model, called = build(yaml.stem, layers=layers).eval(), []
    found = model.layers()
    assert found[-1] is model.head
    held = [id(parameter) for layer in found for parameter in layer.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    for number, layer in enumerate(found):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    model(*noise(RATE))
    assert called == list(range(len(found)))


@models
def test_takes_any_number_of_samples(yaml: Path) -> None:
    model = build(yaml.stem)
    for samples in (300, 4800, 33333):
        output = model(*noise(samples, samples // 2, samples=samples))
        output.logits.sum().backward()
        assert output.logits.isfinite().all()
    assert model.eval()(torch.zeros(3, RATE), torch.tensor([RATE, 0, 1])).logits.isfinite().all()


@models
def test_neither_padding_nor_batch_mates_matter(yaml: Path) -> None:
    model = lively(build(yaml.stem)).eval().double()
    waveform, lengths = noise(9000, 12345, 300)
    garbage = waveform.clone()
    for row, length in enumerate(lengths.tolist()):
        garbage[row, length:] = 0.9
    first, second = model(waveform.double(), lengths), model(garbage.double(), lengths)
    assert torch.equal(first.logits, second.logits)
    alone = [
        model(waveform[i : i + 1, :length].double(), lengths[i : i + 1]).logits
        for i, length in enumerate(lengths.tolist())
    ]
    together, apart = joined([first.logits, *alone]).chunk(2)
    assert relative(together, apart) < 1e-12
    assert relative(together[:1], together[1:2]) > 1e-4  # what is heard does matter


@models
def test_the_same_seed_gives_the_same_weights_and_weights_alone_restore_a_model(yaml: Path) -> None:
    first, second, third = build(yaml.stem).eval(), build(yaml.stem).eval(), build(yaml.stem, seed=1).eval()
    expected = first(*noise(RATE)).logits
    assert torch.equal(expected, second(*noise(RATE)).logits) and not torch.equal(expected, third(*noise(RATE)).logits)
    third.load_state_dict(first.state_dict())
    assert torch.equal(expected, third(*noise(RATE)).logits)


PUBLISHED = {  # millions; with a projector and twelve classes, but for AST's 35
    "wav2vec2_base": 95.0,
    "wav2vec2_large": 317,
    "hubert_base": 94.6,
    "hubert_large": 316,
    "hubert_xlarge": 963,
    "wavlm_base": 94.7,
    "wavlm_base_plus": 94.7,
    "wavlm_large": 316.6,
    "whisper_tiny": 8.31,
    "whisper_base": 20.7,
    "whisper_small": 88.4,
    "ast": 86.93,
    "torchaudio_bundle": 94.6,
    "wav2vec2_ctc": 94.4,
    "hubert_ctc": 94.4,
    "wavlm_ctc": 94.4,
}


@models
def test_size_is_the_published_one_and_the_yaml_states_it(yaml: Path) -> None:
    config = OmegaConf.to_container(composed(yaml.stem))
    with torch.device("meta"):
        model = build_classifier({**config, "pretrained": None}, 12, RATE)  # type: ignore[dict-item]
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED[yaml.stem], rel=0.02)
    assert count == pytest.approx(float(yaml.read_text().splitlines()[1].split()[1]), rel=0.002)
    build_without_weights(config, RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("yaml", [path for path in YAMLS if path.stem.upper() in BUNDLES], ids=lambda path: path.stem)
def test_a_bundle_is_the_same_network(yaml: Path) -> None:
    bundle = OmegaConf.to_container(composed("torchaudio_bundle"))
    config = OmegaConf.to_container(composed(yaml.stem))
    with torch.device("meta"):
        mine = build_classifier({**bundle, "bundle": yaml.stem.upper(), "pretrained": False}, 12, RATE)  # type: ignore[dict-item]
        theirs = build_classifier({**config, "pretrained": None}, 12, RATE)  # type: ignore[dict-item]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (mine, theirs)]
    assert counts[0] == counts[1]


# Equality with the libraries.


def heard_by_library(model: Any, name: str, waveform: Tensor, **changes: Any) -> Tensor:
    """The library's logits for one utterance, by its own feature extractor."""
    features = extractor_of(name, **changes)(waveform.numpy(), sampling_rate=RATE, return_tensors="pt")
    found = features["input_features"] if "input_features" in features else features["input_values"]
    with torch.no_grad():
        return model(found).logits


VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in LIBRARY),
    *((name, {"use_weighted_layer_sum": True}, {}) for name in LIBRARY if name != "ast"),
    ("hubert_base", {"feat_proj_layer_norm": False}, {"do_normalize": False}),
    ("hubert_large", {"do_stable_layer_norm": False, "conv_bias": False}, {"do_normalize": False}),
    ("ast", {}, {"mean": -3.0, "std": 2.0}),
]


@pytest.mark.parametrize(("name", "changes", "extractor"), VARIANTS)
def test_a_kept_head_gives_the_library_s_logits(name: str, changes: dict, extractor: dict, tmp_path: Path) -> None:
    library = checkpoint(tmp_path, name, extractor=extractor, **changes)
    model = build(name, pretrained=str(tmp_path), head="keep", layers=None).eval()
    lengths = (RATE, 9000, 5001)
    waveform, _ = noise(*lengths)
    with torch.no_grad():
        together = model(waveform, torch.tensor(lengths)).logits
        for row, length in enumerate(lengths):
            expected = heard_by_library(library, name, waveform[row, :length], **extractor)
            alone = model(waveform[row : row + 1, :length], torch.tensor([length])).logits
            assert relative(alone, expected) < 2e-5, (row, "alone")
            assert relative(together[row : row + 1], expected) < 2e-5, (row, "padded")
    assert labels_of(tmp_path) == [f"word{number}" for number in range(CLASSES)]


@pytest.mark.parametrize("name", ["whisper_tiny", "ast"])
def test_features_are_the_library_s(name: str) -> None:
    frontend = build(name).frontend
    for waveform in (
        noise(RATE)[0][0],
        noise(5000, samples=5000)[0][0],
        torch.zeros(8000),
        0.5 * torch.sin(torch.arange(40000) / 20),
    ):
        features = extractor_of(name)(waveform.numpy(), sampling_rate=RATE, return_tensors="pt")
        expected = features["input_features"] if name != "ast" else features["input_values"]
        mine = frontend(waveform[None], torch.tensor([len(waveform)]))
        assert mine.shape == expected.shape
        assert (mine - expected).abs().max() < 1e-4


def test_whisper_hears_thirty_seconds_as_published() -> None:
    frontend = build("whisper_tiny", context=30.0, architecture={"max_source_positions": 1500}).frontend
    waveform = noise(20000, samples=20000)[0]
    expected = transformers.WhisperFeatureExtractor()(waveform[0].numpy(), sampling_rate=RATE, return_tensors="pt")[
        "input_features"
    ]
    assert (frontend(waveform, torch.tensor([20000])) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["hubert_base", "hubert_large", "wavlm_base", "wavlm_large"])
@pytest.mark.parametrize("layers", ["last", "weighted"])
def test_torchaudio_and_transformers_agree(name: str, layers: str, tmp_path: Path) -> None:
    theirs = lively(build(name, layers=layers, normalise=name.endswith("large"))).eval()
    imported = torchaudio.models.wav2vec2.utils.import_huggingface_model(theirs.encoder)
    bundle = name.upper()
    torch.save(imported.state_dict(), tmp_path / "weights.pt")
    mine = build("torchaudio_bundle", bundle=bundle, layers=layers, pretrained=str(tmp_path / "weights.pt")).eval()
    mine.head.load_state_dict(theirs.head.state_dict())
    mine.projector.load_state_dict(theirs.projector.state_dict())
    if layers == "weighted":
        mine.weighting.load_state_dict(theirs.weighting.state_dict())
    inputs = noise(RATE, 9000, 5000, 200)
    assert relative(mine(*inputs).logits, theirs(*inputs).logits) < 2e-5
    assert set(fingerprint({"bundle": bundle, "pretrained": str(tmp_path / "weights.pt")}) or {}) == {"weights"}
    assert fingerprint({"bundle": bundle, "pretrained": True}) == {"bundle": bundle}


# What learns, and how.


def batch_of(*lengths: int, rows: tuple[int, ...] = (), classes: int = CLASSES) -> Batch:
    inputs = noise(*lengths)
    found = torch.tensor(rows or tuple(range(len(lengths))))
    return Batch(inputs, found % classes, found, found < 0)


def gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    with drawn_for(batch, 0, "train", 0):
        logits = model(*batch.inputs).logits
        loss = cross_entropy(logits, labels_for(logits, batch.labels)).mean()
    loss.backward()  # outside, as Lightning calls it
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@models
def test_a_frozen_encoder_stays_as_it_is(yaml: Path) -> None:
    model = build(yaml.stem, tune="frozen").train()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(gradients(model, batch_of(RATE, 9000)))
    assert learning and all(name.startswith(HEADS) for name in learning)
    assert "weighting.weights" in learning and len(model.weighting.weights) == 3
    assert model.training and not any(module.training for module in model.encoder.modules())
    assert torch.equal(model(*noise(RATE)).embedding, model(*noise(RATE)).embedding)


@models
def test_lora_learns_and_is_saved(yaml: Path, tmp_path: Path) -> None:
    if yaml.stem == "torchaudio_bundle":
        with pytest.raises(UserError, match="LoRA cannot change"):
            build(yaml.stem, tune="lora", bundle="WAVLM_BASE")
    model = lively(
        build(yaml.stem, tune="lora", layers="weighted", lora={"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]})
    ).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model.parameters(), {"name": "adamw"}, 0.01)
    found = gradients(model, batch_of(RATE, 9000))
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(found) == {name for name in before if "lora_" in name or name.startswith(HEADS)}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    assert len([name for name in moved if "lora_" in name]) == 2 * 2 * 2
    save_classifier(
        tmp_path,
        model,
        {
            "model": options(yaml.stem, tune="lora", lora={"rank": 2, "alpha": 4}),
            "labels": ["x"] * CLASSES,
            "sample_rate": RATE,
            "seconds": 1.0,
        },
    )
    again, _ = load_classifier(tmp_path)
    assert torch.equal(again(*noise(RATE, 5000)).logits, model.eval()(*noise(RATE, 5000)).logits)
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == moved


def test_the_convolutions_learn_only_when_told() -> None:
    for name in ("hubert_base", "torchaudio_bundle"):
        for freeze in (True, False):
            found = gradients(build(name, freeze_feature_encoder=freeze).train(), batch_of(RATE, 9000))
            assert any("conv_layers" in key for key in found) != freeze


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "torchaudio_bundle"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    changes: dict[str, Any] = {} if name.startswith("whisper") else {"dropout": {"hidden": 0.3}}
    if "wav" in name or "hubert" in name:
        changes["freeze_feature_encoder"] = False
    plain, checkpointed = (lively(build(name, gradient_checkpointing=on, **changes)).train() for on in (False, True))
    forwards = []
    first = (
        checkpointed.encoder.layers[0]
        if hasattr(checkpointed.encoder, "layers")
        else checkpointed.encoder.encoder.layers[0]
    )
    attention = next(module for key, module in first.named_modules() if key.endswith("q_proj"))
    attention.register_forward_hook(lambda *_: forwards.append(1))
    batch = batch_of(RATE, 9000, 5000)
    expected, found = gradients(plain, batch), gradients(checkpointed, batch)
    assert len(forwards) == 2, "the layer was computed once: nothing was checkpointed"
    assert expected.keys() == found.keys()
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-6) for key in expected)


@models
def test_draws_belong_to_utterances_and_not_to_global_generators(yaml: Path) -> None:
    model = (
        build(yaml.stem, **({} if yaml.stem.startswith("whisper") else {"dropout": {"hidden": 0.4}})).train().double()
    )
    batch = batch_of(RATE, 9000, 5000, 700)
    batch = batch._replace(inputs=(batch.inputs[0].double(), batch.inputs[1]))

    def logits(part: slice, seed: int) -> Tensor:
        for start in (torch.manual_seed, np.random.seed, random.seed):
            start(seed)
        shared = Batch(
            tuple(tensor[part] for tensor in batch.inputs),
            *(tensor[part] for tensor in (batch.labels, batch.rows, batch.forget)),
        )
        with drawn_for(shared, 0, "train", 0):
            return model(*shared.inputs).logits

    whole = logits(slice(None), 0)
    assert torch.equal(whole, logits(slice(None), 1))
    parts = joined([logits(slice(0, 2), 2), logits(slice(2, 4), 3)])
    assert torch.allclose(joined([whole]), parts, rtol=0, atol=1e-12)
    if not yaml.stem.startswith("whisper"):
        assert not torch.allclose(whole, model.eval()(*batch.inputs).logits)


def test_spans_hide() -> None:
    spans = torch.tensor([[[0.25, 0.5]], [[0.0, 0.125]]]).expand(2, 2, 1, 2)
    for name, size in (("hubert_base", RATE), ("whisper_tiny", 100), ("ast", 64)):
        frontend = build(name).frontend
        plain, hidden = frontend(*noise(RATE, RATE)), frontend(*noise(RATE, RATE), spans)
        if name == "ast":
            plain, hidden = plain.transpose(1, 2), hidden.transpose(1, 2)
        end = int(size * 0.125)
        assert not hidden[..., : end - 1].any()
        if hidden.dim() == 3:
            low, high = hidden.shape[1] // 4, hidden.shape[1] // 2
            assert not hidden[:, low:high].any() and torch.equal(hidden[:, high:, -1], plain[:, high:, -1])
        else:
            assert torch.equal(hidden[:, end + 1 :], plain[:, end + 1 :])
