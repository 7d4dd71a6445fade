"""Classifiers on torchaudio's wav2vec 2.0, HuBERT and WavLM: the same networks without the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError, nearest
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import (
    Choices,
    EncoderClassifier,
    WeightedSum,
    check_rate,
    chosen_dropouts,
    masked_mean,
    new_linear,
)
from speechforget.models.wav2vec2 import Waveform, frames_of, masked, shortest_of

BUNDLES = (
    "WAV2VEC2_BASE",
    "WAV2VEC2_LARGE",
    "HUBERT_BASE",
    "HUBERT_LARGE",
    "HUBERT_XLARGE",
    "WAVLM_BASE",
    "WAVLM_BASE_PLUS",
    "WAVLM_LARGE",
)
DROPOUTS = {
    "hidden": "encoder_dropout",
    "activation": "encoder_ff_interm_dropout",
    "projection": "encoder_projection_dropout",
}
# These would draw from global generators.
NO_DRAWS = {"encoder_attention_dropout": 0.0, "encoder_layer_drop": 0.0, "aux_num_out": None}


class TorchaudioBundle(EncoderClassifier):
    """Classify by an encoder of torchaudio: projector -> mean over the utterance's frames -> head, as in `Wav2Vec2`.

    bundle: the name of one of torchaudio's. pretrained: true: its weights, which torch.hub downloads; false: random
    ones; or a file of weights. architecture: numbers, by torchaudio's names, that replace the bundle's. For the other
    arguments see `Choices` and conf/model. Raises UserError.
    """

    frontend: Waveform

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        bundle: str,
        pretrained: bool | str | None = True,
        architecture: Mapping[str, Any] | None = None,
        tune: str = "whole",
        freeze_feature_encoder: bool = True,
        layers: str | None = None,
        projection: int = 256,
        lora: Mapping[str, Any] | None = None,
        dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if bundle not in BUNDLES:
            raise UserError(f"There is no model.bundle={bundle}: {nearest(bundle, BUNDLES)}.")
        self.choices = Choices(tune, layers, projection, lora).checked()
        self.gated = bundle.startswith("WAVLM")
        if self.gated and tune == "lora":
            raise UserError(
                "torchaudio's WavLM never calls its projections, so LoRA cannot change them: "
                "choose model=wavlm_base or model.tune=frozen."
            )
        found = getattr(torchaudio.pipelines, bundle)
        check_rate(bundle if pretrained else None, sample_rate, int(found.sample_rate))
        numbers = {
            **found._params,
            **_known(architecture or {}, found._params),
            **NO_DRAWS,
            **chosen_dropouts(dropout, DROPOUTS),
        }
        self.encoder = (torchaudio.models.wavlm_model if self.gated else torchaudio.models.wav2vec2_model)(**numbers)
        if pretrained:
            load_weights(self.encoder, found, pretrained)
        shapes = numbers["extractor_conv_layer_config"]
        self.kernels, self.strides = [kernel for _, kernel, _ in shapes], [stride for _, _, stride in shapes]
        self.frontend = Waveform(shortest_of(self.kernels, self.strides), bool(found._normalize_waveform))
        self._mind_lengths()
        self.weighting = (
            WeightedSum(numbers["encoder_num_layers"] + 1) if self.choices.new_layers == "weighted" else None
        )
        self.projector = new_linear(numbers["encoder_embed_dim"], projection)
        self.head = new_linear(projection, classes)
        self.restrict(self.encoder.feature_extractor if freeze_feature_encoder else None)

    def _mind_lengths(self) -> None:
        first = self.convolutions[0]
        if isinstance(first.layer_norm, nn.GroupNorm):
            first.layer_norm = masked(first.layer_norm)

    @property
    def convolutions(self) -> list[Any]:
        """List the layers that turn samples into frames."""
        return list(self.encoder.feature_extractor.conv_layers)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        samples = lengths.clamp(self.frontend.shortest, features.shape[1])
        norm = self.convolutions[0].layer_norm
        if norm is not None:
            norm.frames = frames_of(samples, self.kernels[:1], self.strides[:1])
        frames, _ = self.encoder.feature_extractor(features, None)
        heard = (
            torch.arange(frames.shape[1], device=frames.device)
            < frames_of(samples, self.kernels, self.strides)[:, None]
        )
        embedding = masked_mean(self.projector(self._encoded(frames, heard)), heard)
        return Output(self.head(embedding), embedding)

    def _encoded(self, frames: Tensor, heard: Tensor) -> Tensor:
        """Run the transformer and give the layers of the head's input.

        torchaudio's own loop takes lengths for two of the three families only.
        """
        encoder = self.encoder.encoder
        transformer = encoder.transformer
        x = transformer._preprocess(encoder.feature_projection(frames).masked_fill(~heard[:, :, None], 0.0))
        shut = torch.zeros(heard.shape, dtype=x.dtype, device=x.device).masked_fill(~heard, -torch.inf)
        square, line = (None, shut) if self.gated else (shut[:, None, None].expand(-1, 1, heard.shape[1], -1), None)
        states, bias = [x], None
        for layer in transformer.layers:
            x, bias = layer(x, square, position_bias=bias, key_padding_mask=line)
            states.append(x)
        return self.mixed(x if transformer.layer_norm_first else transformer.layer_norm(x), states)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        encoder = self.encoder.encoder
        transformer = encoder.transformer
        norms = [transformer.layer_norm]
        before, after = (norms, []) if transformer.layer_norm_first else ([], norms)
        start = [*self.convolutions, encoder.feature_projection, transformer.pos_conv_embed]
        return [*start, *before, *transformer.layers, *after, *self.after_encoder(), self.projector, self.head]

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """Give the options that build this classifier again without its pretrained weights."""
        return {"pretrained": False, "layers": "last" if self.weighting is None else "weighted"}


def _known(architecture: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    for name in architecture:
        if name not in known:
            raise UserError(f"There is no model.architecture.{name} in a bundle: {nearest(name, known)}.")
    return dict(architecture)


def load_weights(encoder: nn.Module, bundle: Any, pretrained: bool | str) -> None:
    """Load a file's weights, or those that torchaudio published, into the encoder.

    Raises UserError where they cannot be loaded or belong to another bundle.
    """
    try:
        weights = (
            bundle._get_state_dict(None)
            if pretrained is True
            else torch.load(str(pretrained), map_location="cpu", weights_only=True)
        )
    except Exception as error:  # dozens of types: of the network, of the file system, of the unpickler
        raise UserError(
            f"model.pretrained={pretrained} could not be loaded ({type(error).__name__}): check the network, "
            "give the file of a state dict, or set model.pretrained=false for random weights."
        ) from None
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"model.pretrained={pretrained} does not fit this bundle ({str(error).splitlines()[-1].strip()}): "
            "set model.bundle to the one of these weights."
        ) from None
