"""Tiny classifiers on encoders, and tiny checkpoints, for test_encoders.py and test_pretrained.py."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio  # noqa: F401  before transformers, which imports it
from speechforget.models.folder import build_classifier

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
RATE = 16000
CLASSES = 7
YAMLS = [path for path in sorted((ROOT / "conf" / "model").glob("*.yaml")) if "\npretrained:" in path.read_text()]
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
RAW = {**TINY, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 50,
}
SHAPES = [(8, kernel, stride) for kernel, stride in zip([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2], strict=True)]
BUNDLE = {
    "extractor_conv_layer_config": SHAPES,
    "encoder_embed_dim": 16,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 24,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
}
# What makes each model tiny: options of its own, and numbers of its architecture.
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Wav2Vec2": ({"projection": 8}, RAW),
    "Wav2Vec2CTC": ({}, RAW),
    "Whisper": ({"projection": 8, "context": 1.0}, WHISPER),
    "SpectrogramTransformer": ({"context": 0.64}, {**TINY, "max_length": 64, "num_mel_bins": 64}),
    "TorchaudioBundle": ({"projection": 8}, BUNDLE),
}
FAMILIES = (
    "wav2vec2_base",
    "wav2vec2_large",
    "hubert_base",
    "hubert_large",
    "wavlm_base",
    "wavlm_large",
    "whisper_tiny",
    "ast",
)
LIBRARY = [name for name in FAMILIES if name != "wav2vec2_large"]
HEADS = ("head.", "projector.", "weighting.", "norm.")


@functools.cache
def composed(name: str) -> DictConfig:
    """Compose `model=name` with its parents."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"model={name}"]).model


def options(name: str, **changes: Any) -> dict[str, Any]:
    """Make a yaml's options tiny, with random weights; `changes` replace options and numbers of the architecture."""
    config: Any = OmegaConf.to_container(composed(name))
    own, numbers = SMALL[config["_target_"].rsplit(".", 1)[1]]
    architecture = {**config["architecture"], **numbers, **changes.pop("architecture", {})}
    return {**config, "pretrained": None, **own, **changes, "architecture": architecture}


def build(name: str, classes: int = CLASSES, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return build_classifier(options(name, **changes), classes, RATE)


def noise(*lengths: int, samples: int = RATE) -> tuple[Tensor, Tensor]:
    waveform = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(1)) * 0.1
    return waveform, torch.tensor(lengths)


def lively(model: nn.Module) -> Any:
    """Spread the weights: with initial ones, features hardly depend on the input."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def relative(first: Tensor, second: Tensor) -> float:
    return float(((first - second).abs().max() / second.abs().max()).detach())


def extractor_of(name: str, **changes: Any) -> Any:
    if name.startswith("whisper"):
        return transformers.WhisperFeatureExtractor(chunk_length=1, **changes)
    if name == "ast":
        return transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=64, **changes)
    return transformers.Wav2Vec2FeatureExtractor(**changes)


def checkpoint(
    folder: Path, name: str, classes: int = CLASSES, extractor: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A fine-tuned classifier of the library in `folder`, as users have them; gives the library's model."""
    numbers = dict(options(name)["architecture"])
    config = transformers.AutoConfig.for_model(
        numbers.pop("model_type"),
        **{**numbers, "classifier_proj_size": 12, "num_labels": classes, "layerdrop": 0.1, **changes},
    )
    config.id2label = {number: f"word{number}" for number in range(classes)}
    torch.manual_seed(3)
    model = lively(transformers.AutoModelForAudioClassification.from_config(config)).eval()
    model.save_pretrained(folder)
    extractor_of(name, **(extractor or {})).save_pretrained(folder)
    return model


def described(model: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "labels": ["x"] * CLASSES, "sample_rate": RATE, "seconds": 1.0}
