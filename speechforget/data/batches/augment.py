"""Augment training batches by time shift, noise and SpecAugment, drawn for each utterance by its row number."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget import seeding
from speechforget.data.batches.sample_sources import Mapped, Recordings, Resident, silence
from speechforget.data.batches.waveforms import Augmentation
from speechforget.errors import UserError

COLOURS = (0.0, 0.5, 1.0)  # synthetic noise has a power spectrum of 1 / frequency ** colour: white, in between, pink
COLOUR_SAMPLES = 2**18


class Augment:
    """Augment the waveforms of a training batch; 0 turns a part off.

    shift: largest time shift in either direction, as a share of the utterance's length (0.1: up to 100 ms of one
        second); drawn uniformly.
    noise: share of the utterances that get background noise. Their signal-to-noise ratio in dB is uniform in
        `snr` = [lowest, highest].
    masks: SpecAugment masks along each axis, each of up to `mask_frequency` of the bands or `mask_time` of the frames.

    Raises UserError for shares outside [0, 1] and for an `snr` that is not such a pair.
    """

    def __init__(
        self,
        *,
        shift: float = 0.0,
        noise: float = 0.0,
        snr: Sequence[float] = (5.0, 25.0),
        masks: int = 0,
        mask_frequency: float = 0.0,
        mask_time: float = 0.0,
    ) -> None:
        for name, share in {
            "shift": shift,
            "noise": noise,
            "mask_frequency": mask_frequency,
            "mask_time": mask_time,
        }.items():
            if not 0 <= share <= 1:
                raise UserError(f"train.augment.{name} is {share}: set it to a share between 0 and 1.")
        if len(snr) != 2 or snr[0] > snr[1]:
            raise UserError(f"train.augment.snr is {list(snr)}: give [lowest, highest] in dB.")
        self.shift, self.noise, self.snr = shift, noise, (float(snr[0]), float(snr[1]))
        self.masks, self.mask_widths = masks, (mask_frequency, mask_time)
        self._noise: NDArray[np.int16] | None = None
        self._device = torch.device("cpu")
        self._looped: tuple[int, int, Recordings] | None = None

    def with_noise(self, noise: NDArray[np.int16] | None, device: torch.device | None = None) -> Augment:
        """Return a copy with this recorded noise (samples,) on a device; None or no samples: synthetic noise."""
        augment = copy.copy(self)
        augment._noise = noise if noise is not None and len(noise) else None
        augment._device = device or torch.device("cpu")
        augment._looped = None
        return augment

    def delays(
        self, lengths: NDArray[np.int64], rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> NDArray[np.int64]:
        """Return the time shift of each utterance in samples (batch,), given lengths (batch,) in samples.

        A positive shift delays the utterance and may cut its end; a negative shift cuts its beginning.
        """
        if not self.shift:
            return np.zeros_like(lengths)
        share = seeding.uniform(rows, 1, *salt, "shift")[:, 0] * 2 - 1
        return np.rint(share * self.shift * lengths).astype(np.int64)

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return (waveform, spans or None), with noise added to the waveform in place.

        waveform: (batch, samples) in [-1, 1]. lengths: (batch,) in samples, on the CPU. rows: (batch,) row numbers.
        salt: seed and pass that the draws depend on. spans: see `_spans`.
        """
        if self.noise:
            self._add_noise(waveform, lengths, rows, salt)
        return waveform, self._spans(waveform, rows, salt)

    def _add_noise(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> None:
        """Add noise from a drawn start at the drawn ratio of mean powers; noise that ends starts again."""
        chance, start, level = seeding.uniform(rows, 3, *salt, "noise").T
        chosen = np.flatnonzero(chance < self.noise)
        if not len(chosen):
            return
        picked = torch.from_numpy(chosen).to(waveform.device)
        noise = self._noise_from(start[chosen], waveform.shape[1])
        silence(noise, np.zeros_like(chosen), lengths.numpy()[chosen])
        added = noise.to(waveform.dtype)
        ratio = torch.as_tensor(10 ** (-(self.snr[0] + (self.snr[1] - self.snr[0]) * level[chosen]) / 20)).to(waveform)
        norm = torch.linalg.vector_norm(added, dim=1)  # 0 for silent noise: nothing is added
        gain = torch.linalg.vector_norm(waveform, dim=1)[picked] * ratio / norm.clamp(min=1.0)
        waveform.index_add_(0, picked, added.mul_(gain[:, None]))

    def _noise_from(self, start: NDArray[np.float64], samples: int) -> Tensor:
        """Return noise (len(start), samples) int16; each start is a share of the length of the noise."""
        if self._looped is None or self._looped[0] < samples:
            sound = self._noise if self._noise is not None else _synthetic_noise()
            looped = np.concatenate([sound, np.resize(sound, samples)])
            offset = np.zeros(1, dtype=np.int64)
            source = Mapped(looped, offset) if self._device.type == "cpu" else Resident(looped, offset, self._device)
            self._looped = (samples, len(sound), source)
        _, length, recordings = self._looped
        return recordings.read(np.zeros(len(start), dtype=np.int64), (start * length).astype(np.int64), samples)

    def _spans(self, waveform: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]) -> Tensor | None:
        """Return the masks (batch, 2, masks, 2): [start, end] as shares of the bands and of the frames."""
        if not self.masks or not any(self.mask_widths):
            return None
        width, start = (
            seeding.uniform(rows, 4 * self.masks, *salt, "spans")
            .reshape(len(rows), 2, self.masks, 2)
            .transpose(3, 0, 1, 2)
        )
        width = width * np.array(self.mask_widths)[:, None]
        start = start * (1 - width)
        return torch.as_tensor(np.stack([start, start + width], axis=-1)).to(waveform.dtype)


class Sparing:
    """Augment all utterances but those of `spared` (rows,) bool, which reach the model unchanged."""

    def __init__(self, augment: Augmentation, spared: NDArray[np.bool_]) -> None:
        self.augment, self.spared = augment, spared

    def delays(
        self, lengths: NDArray[np.int64], rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> NDArray[np.int64]:
        """See `Augment`."""
        return np.where(self.spared[rows], 0, self.augment.delays(lengths, rows, salt))

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """See `Augment`."""
        spared = torch.from_numpy(np.flatnonzero(self.spared[rows])).to(waveform.device)
        unchanged = waveform[spared]
        waveform, spans = self.augment(waveform, lengths, rows, salt)
        waveform[spared] = unchanged
        if spans is not None:
            spans[spared] = 0.0  # rectangles without area
        return waveform, spans


@functools.cache
def _synthetic_noise() -> NDArray[np.int16]:
    """Return white to pink noise, the same in every run."""
    return np.concatenate([_coloured(colour) for colour in COLOURS])


def _coloured(colour: float) -> NDArray[np.int16]:
    """Return COLOUR_SAMPLES of noise with power 1 / frequency ** colour, its deviation a tenth of full scale."""
    white = seeding.uniform(np.arange(COLOUR_SAMPLES), 1, "coloured noise", str(colour))[:, 0] - 0.5
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
    sound = np.fft.irfft(spectrum)
    return np.clip(sound / sound.std() * 3276.8, -32768, 32767).astype(np.int16)
