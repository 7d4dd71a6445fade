"""wav2vec 2.0, HuBERT and WavLM as classifiers of raw samples, with the head of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import (
    Choices,
    TransformerClassifier,
    check_rate,
    chosen_dropouts,
    masked_mean,
    new_linear,
)
from speechforget.models.encoders.huggingface import preprocessing_of
from speechforget.models.layers.frontend import kept

RATE = 16000  # Hz, of every published checkpoint
# The library would draw these from global generators, so one process and two would differ: they are off.
NO_DRAWS = {
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
DROPOUTS = {"hidden": "hidden_dropout", "activation": "activation_dropout", "projection": "feat_proj_dropout"}


class Waveform(nn.Module):
    """Pad waveforms to at least `shortest` samples, and set samples beyond `lengths` to 0.

    normalise: scale each utterance to mean 0 and variance 1; 1e-7 is added to the variance, as in the library.
    """

    def __init__(self, shortest: int, normalise: bool) -> None:
        super().__init__()
        self.shortest, self.normalise = shortest, normalise

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """See `Classifier`; spans of time hide samples, spans of frequency have no effect."""
        waveform = nn.functional.pad(waveform, (0, max(0, self.shortest - waveform.shape[1])))
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            samples = waveform.masked_fill(beyond, 0.0)
            if self.normalise:
                count = lengths.clamp(min=1)[:, None]
                samples = (samples - samples.sum(1, keepdim=True) / count).masked_fill(beyond, 0.0)
                samples = samples * torch.rsqrt(samples.square().sum(1, keepdim=True) / count + 1e-7)
        return samples if spans is None else samples * kept(spans[:, 1], samples.shape[1])


class MaskedGroupNorm(nn.GroupNorm):
    """Normalise each channel over the utterance's frames only: padding would change mean and variance of every frame.

    frames: the number of these frames of each utterance. Set it before calling the encoder: the library cannot pass it.
    """

    frames: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, channels, frames) to the same shape."""
        assert self.frames is not None and self.num_groups == self.num_channels
        with torch.autocast(input.device.type, enabled=False):
            x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
            beyond = (torch.arange(x.shape[2], device=x.device) >= self.frames[:, None])[:, None]
            count = self.frames[:, None, None]
            x = x - x.masked_fill(beyond, 0.0).sum(2, keepdim=True) / count
            variance = x.square().masked_fill(beyond, 0.0).sum(2, keepdim=True) / count
            return x * (torch.rsqrt(variance + self.eps) * self.weight[:, None]) + self.bias[:, None]


def masked(norm: nn.GroupNorm) -> MaskedGroupNorm:
    """Make a norm with the same weights that leaves padding out."""
    result = MaskedGroupNorm(norm.num_groups, norm.num_channels, norm.eps, device=norm.weight.device)
    result.weight, result.bias = norm.weight, norm.bias
    return result


def frames_of(samples: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Count the frames that convolutions without padding make of numbers of samples."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
    return samples


def shortest_of(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Count the samples of one frame: 400 in every published model."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


class Wav2Vec2(TransformerClassifier):
    """Classify by wav2vec 2.0 (Baevski et al., NeurIPS 2020), HuBERT (Hsu et al., TASLP 2021) or WavLM.

    WavLM: Chen et al., JSTSP 2022. `architecture.model_type` chooses one. projector -> mean over the utterance's frames
    -> head. An utterance shorter than one frame is padded with silence. For the arguments see `Choices` and conf/model.
    """

    frontend: Waveform

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        architecture: Mapping[str, Any],
        pretrained: str | None = None,
        head: str = "new",
        tune: str = "whole",
        freeze_feature_encoder: bool = True,
        layers: str | None = None,
        projection: int = 256,
        lora: Mapping[str, Any] | None = None,
        dropout: Mapping[str, float] | None = None,
        normalise: bool | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        said = {} if pretrained is None else preprocessing_of(pretrained)
        check_rate(pretrained, sample_rate, int(said.get("sampling_rate", RATE)))
        changes = {**NO_DRAWS, **chosen_dropouts(dropout, DROPOUTS)}
        model = self.read(
            architecture,
            pretrained,
            changes,
            classes,
            Choices(tune, layers, projection, lora, gradient_checkpointing, head),
        )
        config = self.encoder.config
        if getattr(config, "conv_pos_batch_norm", False):
            raise UserError(
                "The checkpoint's conv_pos_batch_norm is a batch norm that cannot leave padding out: "
                "choose a checkpoint without it."
            )
        self.kernels, self.strides = list(config.conv_kernel), list(config.conv_stride)
        normalise = bool(said.get("do_normalize", True)) if normalise is None else normalise
        self.frontend = Waveform(shortest_of(self.kernels, self.strides), normalise)
        self._mind_lengths()
        if config.model_type == "wavlm":
            from speechforget.models.encoders.wavlm_patch import patch_attention

            patch_attention(self.encoder)
        self.projector = model.projector if head == "keep" else new_linear(config.hidden_size, projection)
        self.head = model.classifier if head == "keep" else new_linear(projection, classes)
        if freeze_feature_encoder or tune != "whole":
            self.encoder.feature_extractor._freeze_parameters()
        self.restrict()

    def _mind_lengths(self) -> None:
        """Mask the first convolution's norm, which is over time in base models.

        Gradient checkpointing is off there: it would compute the norm again, with the lengths of a later batch.
        """
        first = self.convolutions[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = masked(first.layer_norm)
            first.gradient_checkpointing = False

    @property
    def convolutions(self) -> list[Any]:
        """List the layers that turn samples into frames."""
        return list(self.encoder.feature_extractor.conv_layers)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        samples = lengths.clamp(self.frontend.shortest, features.shape[1])
        x = self.projector(self.encoded(features, samples))
        heard = torch.arange(x.shape[1], device=x.device) < frames_of(samples, self.kernels, self.strides)[:, None]
        embedding = masked_mean(x, heard)
        return Output(self.head(embedding), embedding)

    def encoded(self, features: Tensor, samples: Tensor) -> Tensor:
        """Return the frames that feed the head, (batch, frames, width); samples (batch,) of each utterance."""
        norm = getattr(self.convolutions[0], "layer_norm", None)
        if isinstance(norm, MaskedGroupNorm):
            norm.frames = frames_of(samples, self.kernels[:1], self.strides[:1])
        heard = torch.arange(features.shape[1], device=features.device) < samples[:, None]
        output = self.encoder(features, attention_mask=heard.long(), output_hidden_states=self.weighting is not None)
        return self.mixed(output.last_hidden_state, output.hidden_states)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        encoder = self.encoder.encoder
        norms = [encoder.layer_norm]
        before, after = ([], norms) if self.encoder.config.do_stable_layer_norm else (norms, [])
        start = [*self.convolutions, self.encoder.feature_projection, encoder.pos_conv_embed]
        return [*start, *before, *encoder.layers, *after, *self.after_encoder(), *self.top]

    @property
    def top(self) -> list[nn.Module]:
        """List the layers above the encoder."""
        return [self.projector, self.head]

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """See `TransformerClassifier`."""
        return {**super().rebuilt_with, "projection": self.head.in_features, "normalise": self.frontend.normalise}
