"""Exported formats give the logits of the model that they were made of, for every conf/model/*.yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import encoders
from support.exports import RATE, at_once, clips, exporting

from speechforget.export import graph, int8, onnx_file, torchscript
from speechforget.export.graph import Graph, batches, padded
from speechforget.export.model_folder import Export, _folder
from speechforget.export.source import Unsupported
from speechforget.inference import load
from speechforget.models.folder import build_classifier
from speechforget.models.layers.frontend import LogMel

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
ENCODERS = {path.stem for path in encoders.YAMLS}
# Tiny, these are their smaller relatives, or the encoder of one model with the head of another.
SAME = {"hubert_xlarge", "wavlm_base_plus", "whisper_base", "whisper_small", "hubert_ctc", "wavlm_ctc"}
DIFFERENT = [name for name in NAMES if name not in SAME]


def fast(names: list[str], *quick: str) -> list[Any]:
    """Mark all names but a few as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


LABELS = [f"word{number}" for number in range(encoders.CLASSES)]


def options(name: str, **changes: Any) -> dict[str, Any]:
    if name in ENCODERS:
        return encoders.options(name, **changes)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found: Any = OmegaConf.to_container(compose("config", overrides=[f"model={name}"]).model)
    return {**found, **changes}


def export_of(folder: Path, name: str, **changes: Any) -> Export:
    """An export of a model whose logits depend on the recording."""
    model = options(name, **changes)
    torch.manual_seed(0)
    classifier = build_classifier(model, len(LABELS), RATE)
    lively = encoders.lively(classifier) if name in ENCODERS else warmed(classifier)
    made = exporting(folder, lively.eval(), model, LABELS)
    assert reference(made).std(dim=0).max() > 1e-3, "the logits hardly depend on the recording"
    return made


@torch.no_grad()
def warmed(classifier: Any) -> Any:
    """Set running statistics of batch-norms to those of the clips: with initial ones, signals fade in deep models."""
    for module in classifier.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    waveform, lengths = padded(clips())
    classifier(waveform[:, :RATE], lengths.clamp(max=RATE))
    return classifier


@torch.no_grad()
def reference(made: Export) -> torch.Tensor:
    return at_once(Graph(made.source.classifier, RATE), clips())


def test_a_graph_hears_the_middle_as_a_recogniser_does(tmp_path: Path) -> None:
    made = export_of(tmp_path, "tcresnet")
    _folder(made)
    recogniser = load(made.folder, device="cpu", windows="middle")
    expected = torch.tensor([list(one.probabilities.values()) for one in recogniser.classify(clips())])
    assert torch.allclose(reference(made).softmax(dim=1), expected, atol=1e-6)


def test_clips_have_many_lengths_and_batches_many_sizes() -> None:
    lengths = [len(clip) for clip in clips()]
    assert len(set(lengths)) == len(lengths) and min(lengths) < RATE / 2 and max(lengths) > 2 * RATE
    sizes = [len(batch[1]) for batch in batches(clips())]
    assert sizes == [1, 2, 3, 2, 8]


@pytest.mark.parametrize("name", fast(DIFFERENT, "kwt", "torchaudio_bundle"))
def test_torchscript_agrees_or_says_why_not(name: str, tmp_path: Path) -> None:
    made = export_of(tmp_path, name)
    if name == "torchaudio_bundle":
        with pytest.raises(Unsupported, match="cannot trace"):
            torchscript.write_torchscript(made.folder, made.source, clips())
        return
    _, looped = torchscript.write_torchscript(made.folder, made.source, clips())
    found = at_once(torch.jit.load(made.folder / torchscript.FILE), clips())
    assert torch.allclose(found, reference(made), rtol=1e-4, atol=1e-4)
    assert looped == (name in {"kwt", "ecapa_tdnn"})


@pytest.mark.slow  # test_export.py has a fast one
@pytest.mark.parametrize("name", DIFFERENT)
def test_onnx_agrees(name: str, tmp_path: Path) -> None:
    """On eight lengths and four sizes of a batch; alone and beside others, an answer is the same."""
    made = export_of(tmp_path, name)
    onnx_file.write_onnx(made.folder, made.source, clips())
    run = onnx_file.OnnxFile(made.folder / onnx_file.FILE)
    together = at_once(run, clips())
    assert torch.allclose(together, reference(made), rtol=1e-4, atol=1e-4)
    alone = torch.cat([run(*padded([clip]))[0] for clip in clips()])
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-4)
    assert str(ROOT).encode() not in (made.folder / onnx_file.FILE).read_bytes()


@pytest.mark.parametrize("name", fast(NAMES, "matchboxnet"))
def test_a_folder_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    made = export_of(tmp_path, name)
    told = _folder(made)
    transformers = name in ENCODERS - {"torchaudio_bundle"}
    assert told["kind"] == ("transformers" if transformers else "speechforget")
    assert (made.folder / "weights.safetensors").exists() != transformers  # weights are there once
    assert (made.folder / "model.json").exists() != transformers  # so `original.checkpoint` takes either kind
    found = at_once(Graph(load(made.folder, device="cpu").classifier, RATE), clips())
    assert torch.allclose(found.detach(), reference(made), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("whisper_tiny", {"layers": "weighted"}),
        ("hubert_base", {"tune": "lora"}),
        ("ast", {"mean": -3.0, "deviation": 2.0}),
        *[pytest.param(name, {}, marks=pytest.mark.slow) for name in encoders.LIBRARY],
        pytest.param("wav2vec2_base", {"layers": "weighted"}, marks=pytest.mark.slow),
        pytest.param("wavlm_base", {"normalise": False}, marks=pytest.mark.slow),
    ],
)
def test_transformers_gives_the_same_logits(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = export_of(tmp_path, name, **changes)
    assert _folder(made)["kind"] == "transformers"
    library = encoders.transformers
    model = library.AutoModelForAudioClassification.from_pretrained(made.folder).eval()
    extractor = library.AutoFeatureExtractor.from_pretrained(made.folder)
    assert list(model.config.id2label.values()) == LABELS
    for clip, expected in zip(clips(), reference(made), strict=True):
        start = max(len(clip) - RATE, 0) // 2
        heard = extractor(clip[start : start + RATE].numpy(), sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(model(**heard).logits[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [("ast", {"layers": "weighted"}, "no weighted sum"), ("whisper_tiny", {"context": 0.5}, "whole seconds")],
)
def test_what_the_library_cannot_hold_gets_our_format(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    made = export_of(tmp_path, name, **changes)
    told = _folder(made)
    assert told["kind"] == "speechforget" and reason in told["not_transformers"]
    assert not (made.folder / "config.json").exists()
    assert torch.allclose(at_once(Graph(load(made.folder, "cpu").classifier, RATE), clips()), reference(made))


def test_a_format_that_answers_otherwise_is_refused() -> None:
    right = torch.ones(2, 3)
    for wrong, words in ((right + 1e-3, "differ"), (right * torch.nan, "differ")):
        with pytest.raises(Unsupported, match=words):
            graph.agreement(lambda *_: (right, right), lambda *_, wrong=wrong: (right, wrong), clips())
    within = graph.agreement(lambda *_: (right, right), lambda *_: (right + 5e-5, right), clips())
    assert within.largest_difference == pytest.approx(5e-5, rel=0.01) and within.recordings == len(clips())


def test_a_failing_format_is_refused_with_the_reason() -> None:
    def fails(waveform: torch.Tensor, lengths: torch.Tensor) -> Any:
        raise RuntimeError("first line\nno such operator.")

    with pytest.raises(Unsupported, match=r"fails on 1 recordings at once \(no such operator\)"):
        graph.agreement(lambda *_: (torch.ones(1), torch.ones(1)), fails, clips())


def test_int8_is_not_for_encoders(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="pretrained encoders"):
        int8.check_small(encoders.build("wav2vec2_base"))
    int8.check_small(build_classifier(options("tcresnet", channels=[8, 8]), 2, RATE))


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(Unsupported, match=r"needs the package onnxscript: install it .*\[export\]"):
        onnx_file.need_packages()


def test_the_frontend_is_a_part_of_every_model() -> None:
    """Nodes of the frontend are left in float32 by the name of this attribute."""
    assert isinstance(build_classifier(options("tcresnet"), 2, RATE).frontend, LogMel)
