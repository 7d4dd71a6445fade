"""AST: a transformer on patches of log-mel spectrograms, with the head of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import Choices, TransformerClassifier, check_rate, chosen_dropouts, new_linear
from speechforget.models.encoders.huggingface import preprocessing_of
from speechforget.models.layers.frontend import outside

RATE = 16000  # Hz
WINDOW, HOP, POINTS = 400, 160, 512  # samples
MEAN, DEVIATION = -4.2677393, 4.5689974  # of AudioSet's log-mel features, as in the authors' code and the library
NO_DRAWS = {"attention_probs_dropout_prob": 0.0}
DROPOUTS = {"hidden": "hidden_dropout_prob"}


class KaldiFeatures(nn.Module):
    """Compute the features of the library's ASTFeatureExtractor, batched: Kaldi's log-mel energies of `frames` frames.

    mean, deviation: the features are scaled by them.
    """

    taper: Tensor
    filters: Tensor

    def __init__(self, bands: int, frames: int, mean: float = MEAN, deviation: float = DEVIATION) -> None:
        super().__init__()
        self.frames, self.mean, self.deviation = frames, mean, deviation
        with torch.device("cpu"):  # torchaudio reads values, which the meta device of a rehearsal does not have
            filters, _ = torchaudio.compliance.kaldi.get_mel_banks(
                bands, POINTS, float(RATE), 20.0, 0.0, 100.0, -500.0, 1.0
            )
        self.register_buffer("taper", torch.hann_window(WINDOW, periodic=False), persistent=False)
        # Kaldi leaves the last bin out.
        self.register_buffer("filters", nn.functional.pad(filters, (0, 1)), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Compute (batch, frames, bands), about -1 to 1.

        Frames beyond an utterance are those of energy 1. Cells in spans are 0, the mean.
        """
        waveform = waveform[:, : (self.frames - 1) * HOP + WINDOW]
        waveform = nn.functional.pad(waveform, (0, max(0, WINDOW - waveform.shape[1])))
        with torch.autocast(waveform.device.type, enabled=False):
            energies = self._log_energies(waveform)
            heard = torch.arange(energies.shape[1], device=waveform.device) < ((lengths - WINDOW) // HOP + 1)[:, None]
            energies = energies.masked_fill(~heard[:, :, None], 0.0)
            features = (nn.functional.pad(energies, (0, 0, 0, self.frames - energies.shape[1])) - self.mean) / (
                2 * self.deviation
            )
        return (
            features
            if spans is None
            else features * outside(spans, features.shape[2], features.shape[1]).transpose(1, 2)
        )

    def _log_energies(self, waveform: Tensor) -> Tensor:
        frames = waveform.unfold(1, WINDOW, HOP)
        frames = frames - frames.mean(2, keepdim=True)
        frames = (frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], dim=2)) * self.taper
        spectrum = torch.fft.rfft(frames, POINTS)
        return (
            ((spectrum.real.square() + spectrum.imag.square()) @ self.filters.T)
            .clamp(min=torch.finfo(torch.float32).eps)
            .log()
        )


class SpectrogramTransformer(TransformerClassifier):
    """Classify by Gong, Chung & Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021.

    Mean of its two class tokens -> layer norm -> head. context: seconds of input; empty frames follow shorter
    utterances. Less than the checkpoint's 10.24 keeps the positions in the middle, as the authors do. For the other
    arguments see `Choices` and conf/model.
    """

    frontend: KaldiFeatures

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        architecture: Mapping[str, Any],
        pretrained: str | None = None,
        head: str = "new",
        context: float = 10.24,
        tune: str = "whole",
        layers: str | None = None,
        lora: Mapping[str, Any] | None = None,
        dropout: Mapping[str, float] | None = None,
        mean: float | None = None,
        deviation: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_rate(pretrained or "null (AST's features)", sample_rate, RATE)
        said = {} if pretrained is None else preprocessing_of(pretrained)
        changes = {**NO_DRAWS, **chosen_dropouts(dropout, DROPOUTS)}
        model = self.read(
            architecture, pretrained, changes, classes, Choices(tune, layers, 0, lora, gradient_checkpointing, head)
        )
        config = self.encoder.config
        frames = round(context * RATE / HOP)
        if not config.patch_size <= frames <= config.max_length:
            shortest, longest = (number * HOP / RATE for number in (config.patch_size, config.max_length))
            raise UserError(
                f"model.context={context} must be from {shortest:g} to {longest:g}, the seconds that this encoder has "
                "positions for."
            )
        crop_positions(self.encoder, frames)
        self.frontend = KaldiFeatures(config.num_mel_bins, frames, *scale_of(said, mean, deviation))
        self.norm = (
            model.classifier.layernorm
            if head == "keep"
            else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        )
        self.head = model.classifier.dense if head == "keep" else new_linear(config.hidden_size, classes)
        self.restrict()

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        """See `Classifier`; time is the second axis."""
        frames = torch.arange(features.shape[1], device=features.device)
        return (frames < ((lengths.to(features.device) - WINDOW) // HOP + 1)[:, None])[:, :, None]

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`; the empty frames beyond lengths are part of AST's input."""
        output = self.encoder(features, output_hidden_states=self.weighting is not None)
        embedding = self.norm(self.mixed(output.last_hidden_state, output.hidden_states)[:, :2].mean(1))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        encoder = self.encoder
        return [encoder.embeddings, *encoder.layers, encoder.layernorm, *self.after_encoder(), self.norm, self.head]

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """See `TransformerClassifier`."""
        return {**super().rebuilt_with, "mean": self.frontend.mean, "deviation": self.frontend.deviation}


def scale_of(said: Mapping[str, Any], mean: float | None, deviation: float | None) -> tuple[float, float]:
    """Choose mean and standard deviation of the features: as asked, else the checkpoint's, else AudioSet's."""
    plain = not said.get("do_normalize", True)
    # (0.0, 0.5) leaves features as they are.
    found = (0.0, 0.5) if plain else (float(said.get("mean", MEAN)), float(said.get("std", DEVIATION)))
    return (found[0] if mean is None else mean), (found[1] if deviation is None else deviation)


def crop_positions(encoder: Any, frames: int) -> None:
    """Keep the positions of `frames` frames in the middle of the time axis, and those of the two class tokens."""
    config, embeddings = encoder.config, encoder.embeddings
    bands, before = embeddings.get_shape(config)
    config.max_length = frames
    _, after = embeddings.get_shape(config)
    start = (before - after) // 2
    tokens, grid = embeddings.position_embeddings.detach().split([2, bands * before], dim=1)
    grid = grid.view(1, bands, before, -1)[:, :, start : start + after].flatten(1, 2)
    embeddings.position_embeddings = nn.Parameter(torch.cat([tokens, grid], dim=1).clone())
