"""Whisper's encoder as a classifier of log-mel spectrograms, with the head that the transformers library puts on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import Choices, TransformerClassifier, check_rate, new_linear
from speechforget.models.layers.frontend import _outside

RATE = 16000  # Hz
POINTS, HOP = 400, 160  # of the spectrum, in samples
STRIDE = 2  # frames of features that make one position of the encoder
# Whisper was published without dropout; the library's functional ones would draw from a global generator.
NO_DRAWS = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "apply_spec_augment": False,
}


class WhisperFeatures(nn.Module):
    """What the library's WhisperFeatureExtractor computes of `samples` samples: longer utterances are cut, shorter ones followed by silence."""

    taper: Tensor
    filters: Tensor

    def __init__(self, bands: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        with torch.device("cpu"):  # torchaudio looks at their values, which a rehearsal without memory has none of
            filters = torchaudio.functional.melscale_fbanks(
                POINTS // 2 + 1, 0.0, RATE / 2, bands, RATE, norm="slaney", mel_scale="slaney"
            )
        self.register_buffer("taper", torch.hann_window(POINTS), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """(batch, bands, frames), about -1 to 1.5; see `Classifier`. What spans hide is 0, as with the library's masks."""
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            samples = waveform.masked_fill(beyond, 0.0)[:, : self.samples]
            samples = nn.functional.pad(samples, (0, self.samples - samples.shape[1]))
            spectrum = torch.stft(samples, POINTS, HOP, window=self.taper, return_complex=True)[..., :-1]
            power = self.filters @ (spectrum.real.square() + spectrum.imag.square())
            features = power.clamp(min=1e-10).log10()
            features = (torch.maximum(features, features.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return features if spans is None else features * _outside(spans, features.shape[1], features.shape[2])


class Whisper(TransformerClassifier):
    """Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023: the encoder.

    projector -> mean over all frames, silence after the utterance included, as the library does -> head.
    context: seconds that the encoder hears; less than the published 30 keeps the first positions, costs less and gives other features.
    For the other arguments see `Choices` and conf/model.
    """

    frontend: WhisperFeatures

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        architecture: Mapping[str, Any],
        pretrained: str | None = None,
        head: str = "new",
        context: float = 30.0,
        tune: str = "whole",
        layers: str | None = None,
        projection: int = 256,
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_rate(pretrained or "null, whose features are Whisper's,", sample_rate, RATE)
        model = self.read(
            architecture,
            pretrained,
            NO_DRAWS,
            classes,
            Choices(tune, layers, projection, lora, gradient_checkpointing, head),
        )
        config = self.encoder.config
        positions = round(context * RATE / HOP / STRIDE)
        if not 1 <= positions <= config.max_source_positions:
            most = config.max_source_positions * HOP * STRIDE / RATE
            raise UserError(
                f"model.context={context} is not within the {most:g} seconds that this encoder has positions for: set it to less."
            )
        crop_positions(self.encoder, positions)
        self.frontend = WhisperFeatures(config.num_mel_bins, positions * STRIDE * HOP)
        self.projector = model.projector if head == "keep" else new_linear(config.d_model, projection)
        self.head = model.classifier if head == "keep" else new_linear(projection, classes)
        self.restrict()

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        """See `Classifier`."""
        return super().heard(features, -(-lengths // HOP))

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`; the silence beyond lengths is part of what Whisper hears."""
        output = self.encoder(features, output_hidden_states=self.weighting is not None)
        embedding = self.projector(self.mixed(output.last_hidden_state, output.hidden_states)).mean(1)
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        encoder = self.encoder
        start = [encoder.conv1, encoder.conv2, encoder.embed_positions]
        return [*start, *encoder.layers, encoder.layer_norm, *self.after_encoder(), self.projector, self.head]

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """See `TransformerClassifier`."""
        return {**super().rebuilt_with, "projection": self.head.in_features}


def crop_positions(encoder: Any, positions: int) -> None:
    """Leaves the first positions only; they are fixed sinusoids and never learn."""
    kept = encoder.embed_positions.weight[:positions].detach().clone()
    encoder.embed_positions = nn.Embedding(kept.shape[0], kept.shape[1], _weight=kept)
    encoder.embed_positions.requires_grad_(False)
    encoder.max_source_positions = encoder.config.max_source_positions = positions
