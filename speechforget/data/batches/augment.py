"""Augmentation of training batches: time shift, background noise, SpecAugment. Drawn for each utterance by its number."""

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
from speechforget.errors import UserError

COLOURS = (0.0, 0.5, 1.0)  # spectra of made noise fall as 1 / frequency ** colour: white, in between, pink
COLOUR_SAMPLES = 2**18


class Augment:
    """What happens to a training utterance before the classifier hears it; any of the three can be 0, that is off.

    shift: time shift either way, uniform, at most this share of the utterance's own length (0.1: up to 100 ms for one second).
    noise: share of the utterances that get background noise, at a ratio of signal to noise uniform in `snr` = [lowest, highest] dB.
    masks: SpecAugment rectangles along each axis, each hiding up to `mask_frequency` of the bands or `mask_time` of the frames.
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
                raise UserError(f"train.augment.{name} is a share: set it between 0 and 1, not to {share}.")
        if len(snr) != 2 or snr[0] > snr[1]:
            raise UserError(f"train.augment.snr is [lowest, highest] in dB, not {list(snr)}.")
        self.shift, self.noise, self.snr = shift, noise, (float(snr[0]), float(snr[1]))
        self.masks, self.mask_widths = masks, (mask_frequency, mask_time)
        self._noise: NDArray[np.int16] | None = None
        self._device = torch.device("cpu")
        self._looped: tuple[int, int, Recordings] | None = None

    def hearing(self, noise: NDArray[np.int16] | None, device: torch.device | None = None) -> Augment:
        """The same, with recordings of noise as one int16 array on a device; where there are none (None or empty), coloured noise is made."""
        augment = copy.copy(self)
        augment._noise = noise if noise is not None and len(noise) else None
        augment._device = device or torch.device("cpu")
        augment._looped = None
        return augment

    def delays(
        self, lengths: NDArray[np.int64], rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> NDArray[np.int64]:
        """Samples by which each utterance, of lengths (batch,) in samples, begins later and may lose its end, or earlier and loses its beginning."""
        if not self.shift:
            return np.zeros_like(lengths)
        share = seeding.uniform(rows, 1, *salt, "shift")[:, 0] * 2 - 1
        return np.rint(share * self.shift * lengths).astype(np.int64)

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """(waveform, spans or None) for waveform (batch, samples) in [-1, 1], lengths (batch,) on the CPU and utterance numbers rows (batch,).

        salt: seed and pass of the draws. Noise is added to the waveform in place.
        """
        if self.noise:
            self._add_noise(waveform, lengths, rows, salt)
        return waveform, self._spans(waveform, rows, salt)

    def _add_noise(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> None:
        """Adds noise at the drawn ratio of mean powers; the noise runs from a drawn sample on, and around the end of what there is."""
        chance, start, place = seeding.uniform(rows, 3, *salt, "noise").T
        chosen = np.flatnonzero(chance < self.noise)
        if not len(chosen):
            return
        picked = torch.from_numpy(chosen).to(waveform.device)
        noise = self._noise_from(start[chosen], waveform.shape[1])
        silence(noise, np.zeros_like(chosen), lengths.numpy()[chosen])
        added = noise.to(waveform.dtype)
        ratio = torch.as_tensor(10 ** (-(self.snr[0] + (self.snr[1] - self.snr[0]) * place[chosen]) / 20)).to(waveform)
        norm = torch.linalg.vector_norm(added, dim=1)  # of 0 where the noise is silent: nothing is added
        gain = torch.linalg.vector_norm(waveform, dim=1)[picked] * ratio / norm.clamp(min=1.0)
        waveform.index_add_(0, picked, added.mul_(gain[:, None]))

    def _noise_from(self, start: NDArray[np.float64], samples: int) -> Tensor:
        """Noise (len(start), samples) int16 from a place on, which is a share of what there is."""
        if self._looped is None or self._looped[0] < samples:
            sound = self._noise if self._noise is not None else _made_noise()
            looped = np.concatenate([sound, np.resize(sound, samples)])
            offset = np.zeros(1, dtype=np.int64)
            there = Mapped(looped, offset) if self._device.type == "cpu" else Resident(looped, offset, self._device)
            self._looped = (samples, len(sound), there)
        _, length, recordings = self._looped
        return recordings.read(np.zeros(len(start), dtype=np.int64), (start * length).astype(np.int64), samples)

    def _spans(self, waveform: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]) -> Tensor | None:
        """(batch, 2, masks, 2): [start, end] as shares of the bands and of the frames."""
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


@functools.cache
def _made_noise() -> NDArray[np.int16]:
    """White to pink noise, the same in every run; made when first needed."""
    return np.concatenate([_coloured(colour) for colour in COLOURS])


def _coloured(colour: float) -> NDArray[np.int16]:
    """COLOUR_SAMPLES of noise whose power falls as 1 / frequency ** colour, with a tenth of full scale as standard deviation."""
    white = seeding.uniform(np.arange(COLOUR_SAMPLES), 1, "coloured noise", str(colour))[:, 0] - 0.5
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
    sound = np.fft.irfft(spectrum)
    return np.clip(sound / sound.std() * 3276.8, -32768, 32767).astype(np.int16)
