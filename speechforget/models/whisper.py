"""Whisper's encoder as a classifier of log-mel spectrograms, with the head of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import Choices, TransformerClassifier, check_rate, new_linear
from speechforget.models.layers.frontend import outside

RATE = 16000  # Hz
POINTS, HOP = 400, 160  # FFT size and hop, samples
STRIDE = 2  # frames of features per position of the encoder
# Whisper was published without dropout; the library's would draw from a global generator.
NO_DRAWS = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "apply_spec_augment": False,
}


class WhisperFeatures(nn.Module):
    """Compute the features of the library's WhisperFeatureExtractor, of utterances cut or padded to `samples`."""

    taper: Tensor
    filters: Tensor

    def __init__(self, bands: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        with torch.device("cpu"):  # torchaudio reads values, which the meta device of a rehearsal does not have
            filters = torchaudio.functional.melscale_fbanks(
                POINTS // 2 + 1, 0.0, RATE / 2, bands, RATE, norm="slaney", mel_scale="slaney"
            )
        self.register_buffer("taper", torch.hann_window(POINTS), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Compute (batch, bands, frames), about -1 to 1.5; cells in spans are 0, as in the library."""
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            samples = waveform.masked_fill(beyond, 0.0)[:, : self.samples]
            samples = nn.functional.pad(samples, (0, self.samples - samples.shape[1]))
            spectrum = torch.stft(samples, POINTS, HOP, window=self.taper, return_complex=True)[..., :-1]
            power = self.filters @ (spectrum.real.square() + spectrum.imag.square())
            features = power.clamp(min=1e-10).log10()
            features = (torch.maximum(features, features.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return features if spans is None else features * outside(spans, features.shape[1], features.shape[2])


class Whisper(TransformerClassifier):
    """Classify by the encoder of Whisper: Radford et al., ICML 2023.

    "Robust Speech Recognition via Large-Scale Weak Supervision".
    projector -> mean over all frames, silence after the utterance included, as in the library -> head. context: seconds
    of input; less than the published 30 keeps the first positions, costs less and gives other features. For the other
    arguments see `Choices` and conf/model.
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
        check_rate(pretrained or "null (Whisper's features)", sample_rate, RATE)
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
                f"model.context={context} must be above 0 and at most {most:g}, the seconds that this encoder has "
                "positions for."
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
        """See `Classifier`; the silence beyond lengths is part of Whisper's input."""
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
    """Keep only the first positions; they are fixed sinusoids and never learn."""
    kept = encoder.embed_positions.weight[:positions].detach().clone()
    encoder.embed_positions = nn.Embedding(kept.shape[0], kept.shape[1], _weight=kept)
    encoder.embed_positions.requires_grad_(False)
    encoder.max_source_positions = encoder.config.max_source_positions = positions
