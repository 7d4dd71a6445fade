"""Compute features of waveforms (log-mel, MFCC, or normalised samples), batched, on the module's device."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError

# Added to mel power: about that of a 16-bit recording's last bit, so digital silence stays close to a quiet room.
FLOOR = 1e-6
# Added to the variance of samples: about that of a 16-bit recording's last bit, so silence stays finite.
QUIET = 1e-10


class LogMel(nn.Module):
    """Compute log-mel power in nats minus the utterance's mean over all bands, so that loudness has no effect.

    Removing the mean of each band would remove the channel, but also speakers: accuracy on 30 speakers fell from 0.95
    to 0.87. sample_rate, low, high: Hz (high: None for half of sample_rate). window, hop: ms. bands: number of mel
    bands (HTK scale). Raises UserError where a band would hold no bin of the spectrum.
    """

    taper: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        bands: int = 40,
        *,
        window: float = 25.0,
        hop: float = 10.0,
        low: float = 20.0,
        high: float | None = None,
    ) -> None:
        super().__init__()
        self.window_samples = round(sample_rate * window / 1000)
        self.hop_samples = round(sample_rate * hop / 1000)
        self.points = 2 ** math.ceil(math.log2(self.window_samples))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about empty bands, which raise below
            filters = torchaudio.functional.melscale_fbanks(
                n_freqs=self.points // 2 + 1,
                f_min=low,
                f_max=high or sample_rate / 2,
                n_mels=bands,
                sample_rate=sample_rate,
            )
        if bool((filters.amax(0) == 0).any()):
            raise UserError(
                f"{bands} mel bands are too many for a window of {window} ms at {sample_rate} Hz: "
                "use fewer bands or a longer window."
            )
        self.register_buffer("taper", torch.hann_window(self.window_samples), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """Count the frames of a number of samples."""
        return samples // self.hop_samples + 1

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Compute features (batch, bands, frames) of waveform (batch, samples) in [-1, 1].

        Samples beyond `lengths` (batch,) have no effect: their frames are 0, the mean of the utterance's frames.
        spans: rectangles that are set to 0 too (SpecAugment; Park et al., Interspeech 2019), see `Classifier`.
        """
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            features = self._log_power(waveform.masked_fill(beyond, 0.0))
            steps = torch.arange(features.shape[2], device=waveform.device)
            valid = (steps < self.frames(lengths)[:, None])[:, None, :]
            count = valid.sum(2, keepdim=True) * features.shape[1]
            features = (features - (features * valid).sum((1, 2), keepdim=True) / count) * valid
        return features if spans is None else features * outside(spans, features.shape[1], features.shape[2])

    def _log_power(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform,
            self.points,
            self.hop_samples,
            self.window_samples,
            self.taper,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return torch.log(self.filters @ (spectrum.real.square() + spectrum.imag.square()) + FLOOR)


class MFCC(nn.Module):
    """Compute mel-frequency cepstral coefficients: the orthonormal cosine transform over the bands of `LogMel`.

    The mean that `LogMel` removes is the mean over time of the first coefficient. The first coefficient varies most,
    the last ones least. For the other arguments see `LogMel`. Raises UserError for more coefficients than bands.
    """

    cosines: Tensor

    def __init__(
        self,
        sample_rate: int,
        coefficients: int = 40,
        *,
        bands: int = 80,
        window: float = 30.0,
        hop: float = 10.0,
        low: float = 20.0,
        high: float | None = None,
    ) -> None:
        super().__init__()
        if coefficients > bands:
            raise UserError(
                f"{coefficients} cepstral coefficients need as many mel bands, not {bands}: "
                f"set model.bands to {coefficients} or more."
            )
        self.log_mel = LogMel(sample_rate, bands, window=window, hop=hop, low=low, high=high)
        self.register_buffer(
            "cosines", torchaudio.functional.create_dct(coefficients, bands, "ortho").T.contiguous(), persistent=False
        )

    def frames(self, samples: Tensor) -> Tensor:
        """See `LogMel`."""
        return self.log_mel.frames(samples)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Compute features (batch, coefficients, frames), 0 beyond `lengths`; spans hide coefficients and frames."""
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.cosines @ self.log_mel(waveform, lengths)
        return features if spans is None else features * outside(spans, features.shape[1], features.shape[2])


class Samples(nn.Module):
    """Resample to `rate` Hz and scale each utterance to mean 0 and variance 1, so that loudness has no effect."""

    def __init__(self, sample_rate: int, rate: int) -> None:
        super().__init__()
        self.sample_rate, self.rate = sample_rate, rate

    def frames(self, samples: Tensor) -> Tensor:
        """Count the samples at `rate` of a number of samples at `sample_rate`."""
        return -(-samples * self.rate // self.sample_rate)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Compute samples (batch, samples * rate / sample_rate), 0 beyond `lengths`.

        spans: only those of time have an effect, as raw samples have no frequency axis; samples there are 0, the mean.
        """
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            samples = torchaudio.functional.resample(waveform.masked_fill(beyond, 0.0), self.sample_rate, self.rate)
            valid = torch.arange(samples.shape[1], device=samples.device) < self.frames(lengths)[:, None]
            count = valid.sum(1, keepdim=True).clamp(min=1)
            samples = (samples - (samples * valid).sum(1, keepdim=True) / count) * valid
            samples = samples * torch.rsqrt(samples.square().sum(1, keepdim=True) / count + QUIET)
        return samples if spans is None else samples * kept(spans[:, 1], samples.shape[1])


def outside(spans: Tensor, bands: int, frames: int) -> Tensor:
    """Make a mask (batch, bands, frames), 1 where no span of (batch, 2, masks, 2) hides the cell, else 0."""
    return kept(spans[:, 0], bands)[:, :, None] * kept(spans[:, 1], frames)[:, None, :]


def kept(spans: Tensor, cells: int) -> Tensor:
    """Make a mask (batch, cells), 0 where the middle of a cell lies in a span of (batch, masks, 2), else 1."""
    middles = (torch.arange(cells, device=spans.device, dtype=spans.dtype) + 0.5) / cells
    inside = (middles >= spans[..., :1]) & (middles < spans[..., 1:])
    return (~inside.any(1)).to(spans.dtype)
