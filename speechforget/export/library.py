"""Write an encoder as a folder that the transformers library reads by `from_pretrained`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.export.graph import TOLERANCE, Agreement, padded
from speechforget.export.source import Source, Unsupported
from speechforget.models.encoders.base import TransformerClassifier
from speechforget.models.encoders.huggingface import architecture_of, encoder_name, package
from speechforget.models.erased import Erased
from speechforget.models.lora import settled
from speechforget.models.spectrogram_transformer import SpectrogramTransformer
from speechforget.models.transcriber import Transcriber
from speechforget.models.vocabulary import FILE as VOCABULARY
from speechforget.models.vocabulary import write_vocabulary
from speechforget.models.whisper import HOP, RATE, Whisper
from speechforget.recognition.ctc import BLANK

TRANSFORMERS = "transformers"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", VOCABULARY)


def is_of_library(classifier: nn.Module) -> bool:
    """Return whether a classifier has an encoder of the transformers library."""
    return isinstance(classifier, TransformerClassifier)


def write_library_folder(folder: Path, source: Source, clips: list[Tensor]) -> Agreement:
    """Write config, weights and feature extractor of the library, and compare the logits of clips, one by one.

    Raises Unsupported for a head that the library's class does not have, and if the logits do not agree.
    """
    classifier: Any = source.classifier
    if isinstance(classifier, Erased):
        raise Unsupported("the library's class has no eraser before its head")
    labels = source.description["labels"]
    model = (_ctc_model if isinstance(classifier, Transcriber) else _library_model)(classifier, labels)
    if isinstance(classifier, Transcriber):
        write_vocabulary(folder, labels)
    extractor = _extractor(classifier)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return _agreement(folder, source, clips)


def _ctc_model(classifier: Any, labels: list[str]) -> Any:
    """Make the library's `...ForCTC`; its pad token is the blank."""
    transformers = package("transformers")
    if classifier.weighting is not None:
        raise Unsupported("the library's classes of CTC have no weighted sum of layers (model.layers=weighted)")
    numbers = {**architecture_of(classifier.encoder.config), "vocab_size": len(labels), "pad_token_id": BLANK}
    config = transformers.AutoConfig.for_model(numbers.pop("model_type"), **numbers)
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCTC.from_config(config, dtype=torch.float32)
    encoder = settled(copy.deepcopy(classifier.encoder), "lora")
    getattr(model, encoder_name(model)).load_state_dict(encoder.state_dict())
    model.lm_head.load_state_dict(classifier.head.state_dict())
    return model.eval()


def _library_model(classifier: Any, labels: list[str]) -> Any:
    transformers = package("transformers")
    numbers = architecture_of(classifier.encoder.config)
    names = dict(enumerate(labels))
    weighted = classifier.weighting is not None
    numbers |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    if isinstance(classifier, SpectrogramTransformer):
        if weighted:
            raise Unsupported("the library's class for AST has no weighted sum of layers (model.layers=weighted)")
    else:
        numbers |= {"use_weighted_layer_sum": weighted, "classifier_proj_size": classifier.head.in_features}
    config = transformers.AutoConfig.for_model(numbers.pop("model_type"), **numbers)
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForAudioClassification.from_config(config, dtype=torch.float32)
    encoder = settled(copy.deepcopy(classifier.encoder), "lora")
    getattr(model, encoder_name(model)).load_state_dict(encoder.state_dict())
    if isinstance(classifier, SpectrogramTransformer):
        model.classifier.layernorm.load_state_dict(classifier.norm.state_dict())
        model.classifier.dense.load_state_dict(classifier.head.state_dict())
        return model.eval()
    model.projector.load_state_dict(classifier.projector.state_dict())
    model.classifier.load_state_dict(classifier.head.state_dict())
    if weighted:
        model.layer_weights.data.copy_(classifier.weighting.weights)
    return model.eval()


def _extractor(classifier: Any) -> Any:
    """Make the library's feature extractor that gives the features of a classifier's frontend."""
    transformers, frontend = package("transformers"), classifier.frontend
    if isinstance(classifier, Whisper):
        seconds, rest = divmod(frontend.samples, RATE)
        if rest:
            raise Unsupported(
                f"the library's features of Whisper have whole seconds, not {frontend.samples / RATE:g} (model.context)"
            )
        bands = classifier.encoder.config.num_mel_bins
        return transformers.WhisperFeatureExtractor(feature_size=bands, chunk_length=seconds, hop_length=HOP)
    if isinstance(classifier, SpectrogramTransformer):
        return transformers.ASTFeatureExtractor(
            num_mel_bins=classifier.encoder.config.num_mel_bins,
            max_length=frontend.frames,
            mean=frontend.mean,
            std=frontend.deviation,
        )
    # Base models were pretrained without a mask of padding, and the library's norm counts padding with or without one.
    masks = classifier.encoder.config.feat_extract_norm == "layer"
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=frontend.normalise, return_attention_mask=masks)


@torch.no_grad()
def _agreement(folder: Path, source: Source, clips: list[Tensor]) -> Agreement:
    """Compare logits of single clips, cut to the model's window, after reading the folder as users do."""
    transformers = package("transformers")
    kind = "CTC" if isinstance(source.classifier, Transcriber) else "AudioClassification"
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder, local_files_only=True).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    rate, largest = source.description["sample_rate"], 0.0
    for clip in clips:
        heard = clip[: source.width]
        right = source.classifier(*padded([heard])).logits
        found = model(**extractor(heard.numpy(), sampling_rate=rate, return_tensors="pt")).logits
        difference = float((right - found).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(right.abs().max())):
            raise Unsupported(f"logits of the library's class differ by {difference:.2g}")
        largest = max(largest, difference)
    return Agreement(largest, len(clips), len(clips))
