"""From waveforms to features (log-mel, MFCC, or the samples themselves), batched, on the module's device."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError

FLOOR = 1e-6  # of mel power: about what the last bit of a 16-bit recording makes, so digital silence is not infinitely far from a quiet room
QUIET = 1e-10  # variance added to that of samples: about what the last bit of a 16-bit recording makes, so that silence stays finite


class LogMel(nn.Module):
    """Log-mel power in nats minus each utterance's own mean over all bands, so that loudness does not matter.

    Removing the mean of each band too would make channels alike, but speakers as well: 30 speakers were told apart 0.87 instead of 0.95 of the time.
    sample_rate, low, high: Hz (high: None for half of sample_rate). window, hop: ms. bands: number of mel bands (HTK scale).
    Raises UserError when a band would hold no bin of the spectrum.
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
            warnings.simplefilter("ignore")  # of empty bands, which raise below
            filters = torchaudio.functional.melscale_fbanks(
                n_freqs=self.points // 2 + 1,
                f_min=low,
                f_max=high or sample_rate / 2,
                n_mels=bands,
                sample_rate=sample_rate,
            )
        if bool((filters.amax(0) == 0).any()):
            raise UserError(
                f"{bands} mel bands are too many for a window of {window} ms at {sample_rate} Hz: take fewer bands or a longer window."
            )
        self.register_buffer("taper", torch.hann_window(self.window_samples), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """How many frames a number of samples makes."""
        return samples // self.hop_samples + 1

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Features (batch, bands, frames) of waveform (batch, samples) in [-1, 1].

        What lies beyond `lengths` (batch,) in samples never matters: its frames are 0, which is the mean of what lies before.
        spans: rectangles to hide (SpecAugment; Park et al., Interspeech 2019), see `Classifier`; they are set to 0 too.
        """
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            features = self._log_power(waveform.masked_fill(beyond, 0.0))
            steps = torch.arange(features.shape[2], device=waveform.device)
            valid = (steps < self.frames(lengths)[:, None])[:, None, :]
            count = valid.sum(2, keepdim=True) * features.shape[1]
            features = (features - (features * valid).sum((1, 2), keepdim=True) / count) * valid
        return features if spans is None else features * _outside(spans, features.shape[1], features.shape[2])

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
    """Mel-frequency cepstral coefficients: the orthonormal cosine transform over the bands of `LogMel`, whose arguments the others are.

    The mean that `LogMel` takes away is the mean over time of the first coefficient; that coefficient varies most, and the last ones least.
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
                f"{bands} mel bands make no {coefficients} cepstral coefficients: set model.bands to {coefficients} or more."
            )
        self.log_mel = LogMel(sample_rate, bands, window=window, hop=hop, low=low, high=high)
        self.register_buffer(
            "cosines", torchaudio.functional.create_dct(coefficients, bands, "ortho").T.contiguous(), persistent=False
        )

    def frames(self, samples: Tensor) -> Tensor:
        """See `LogMel`."""
        return self.log_mel.frames(samples)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Features (batch, coefficients, frames), 0 beyond `lengths`; spans hide coefficients and frames. See `LogMel`."""
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.cosines @ self.log_mel(waveform, lengths)
        return features if spans is None else features * _outside(spans, features.shape[1], features.shape[2])


class Samples(nn.Module):
    """The samples themselves at `rate` Hz, each utterance with mean 0 and variance 1, so that loudness does not matter."""

    def __init__(self, sample_rate: int, rate: int) -> None:
        super().__init__()
        self.sample_rate, self.rate = sample_rate, rate

    def frames(self, samples: Tensor) -> Tensor:
        """How many samples at `rate` a number of samples makes."""
        return -(-samples * self.rate // self.sample_rate)

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        """Samples (batch, samples * rate / sample_rate), 0 beyond `lengths`.

        spans: only those of time hide anything (samples there are 0, which is the mean): raw samples have no axis of frequency.
        """
        beyond = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
        with torch.autocast(waveform.device.type, enabled=False):
            samples = torchaudio.functional.resample(waveform.masked_fill(beyond, 0.0), self.sample_rate, self.rate)
            valid = torch.arange(samples.shape[1], device=samples.device) < self.frames(lengths)[:, None]
            count = valid.sum(1, keepdim=True).clamp(min=1)
            samples = (samples - (samples * valid).sum(1, keepdim=True) / count) * valid
            samples = samples * torch.rsqrt(samples.square().sum(1, keepdim=True) / count + QUIET)
        return samples if spans is None else samples * kept(spans[:, 1], samples.shape[1])


def _outside(spans: Tensor, bands: int, frames: int) -> Tensor:
    """(batch, bands, frames), 1 where no span of (batch, 2, masks, 2) hides the cell, 0 elsewhere."""
    return kept(spans[:, 0], bands)[:, :, None] * kept(spans[:, 1], frames)[:, None, :]


def kept(spans: Tensor, cells: int) -> Tensor:
    """(batch, cells), 1 where the middle of a cell lies in none of the spans (batch, masks, 2)."""
    middles = (torch.arange(cells, device=spans.device, dtype=spans.dtype) + 0.5) / cells
    inside = (middles >= spans[..., :1]) & (middles < spans[..., 1:])
    return (~inside.any(1)).to(spans.dtype)
