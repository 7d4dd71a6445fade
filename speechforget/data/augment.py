"""Augmentation of training batches: time shift, background noise, SpecAugment. Drawn for each utterance by its number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget import draws
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
        for name, share in {"shift": shift, "noise": noise, "mask_frequency": mask_frequency, "mask_time": mask_time}.items():
            if not 0 <= share <= 1:
                raise UserError(f"train.augment.{name} is a share: set it between 0 and 1, not to {share}.")
        if len(snr) != 2 or snr[0] > snr[1]:
            raise UserError(f"train.augment.snr is [lowest, highest] in dB, not {list(snr)}.")
        self.shift, self.noise, self.snr = shift, noise, (float(snr[0]), float(snr[1]))
        self.masks, self.mask_widths = masks, (mask_frequency, mask_time)
        self._made: NDArray[np.int16] | None = None

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...], noise: NDArray[np.int16] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(waveform, lengths, spans or None) for waveform (batch, samples) in [-1, 1], lengths (batch,) and utterance numbers rows (batch,).

        salt: seed and pass of the draws. noise: recordings as one int16 array; where there are none (None or empty), coloured noise is made.
        """
        if self.shift:
            waveform, lengths = self._shifted(waveform, lengths, rows, salt)
        if self.noise:
            waveform = self._noisy(waveform, lengths, rows, salt, noise)
        return waveform, lengths, self._spans(waveform, rows, salt)

    def _shifted(self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]) -> tuple[Tensor, Tensor]:
        """A later utterance begins with silence and may lose its end, an earlier one loses its beginning."""
        share = draws.uniform(rows, 1, *salt, "shift")[:, 0] * 2 - 1
        delay = (torch.as_tensor(share * self.shift) * lengths).round().long()
        samples = waveform.shape[1]
        margin = math.ceil(self.shift * samples)
        ended = waveform.masked_fill(torch.arange(samples) >= lengths[:, None], 0.0)
        windows = torch.nn.functional.pad(ended, (margin, margin)).unfold(1, samples, 1)
        return windows[torch.arange(len(rows)), margin - delay], (lengths + delay).clamp(max=samples)

    def _noisy(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...], noise: NDArray[np.int16] | None
    ) -> Tensor:
        """Adds noise at the drawn ratio of mean powers; the noise runs from a drawn sample on, and around the end of what there is."""
        chance, start, place = draws.uniform(rows, 3, *salt, "noise").T
        chosen = np.flatnonzero(chance < self.noise)
        if not len(chosen):
            return waveform
        sound = noise if noise is not None and len(noise) else self._made_noise()
        steps = (start[chosen] * len(sound)).astype(np.int64)[:, None] + np.arange(waveform.shape[1])
        added = torch.as_tensor(np.take(sound, steps, mode="wrap")).to(waveform.dtype) / 32768
        picked = torch.as_tensor(chosen)
        added = added.masked_fill(torch.arange(waveform.shape[1]) >= lengths[picked, None], 0.0)
        decibels = torch.as_tensor(self.snr[0] + (self.snr[1] - self.snr[0]) * place[chosen]).to(waveform.dtype)
        wanted = waveform[picked].square().sum(1) * 10 ** (-decibels / 10)
        power = added.square().sum(1)
        gain = torch.where(power > 0, wanted / power, 0.0).sqrt()
        return waveform.index_add(0, picked, added * gain[:, None])

    def _spans(self, waveform: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]) -> Tensor | None:
        """(batch, 2, masks, 2): [start, end] as shares of the bands and of the frames."""
        if not self.masks or not any(self.mask_widths):
            return None
        width, start = draws.uniform(rows, 4 * self.masks, *salt, "spans").reshape(len(rows), 2, self.masks, 2).transpose(3, 0, 1, 2)
        width = width * np.array(self.mask_widths)[:, None]
        start = start * (1 - width)
        return torch.as_tensor(np.stack([start, start + width], axis=-1)).to(waveform.dtype)

    def _made_noise(self) -> NDArray[np.int16]:
        """White to pink noise, the same in every run; made when first needed."""
        if self._made is None:
            self._made = np.concatenate([_coloured(colour) for colour in COLOURS])
        return self._made


def _coloured(colour: float) -> NDArray[np.int16]:
    """COLOUR_SAMPLES of noise whose power falls as 1 / frequency ** colour, with a tenth of full scale as standard deviation."""
    white = draws.uniform(np.arange(COLOUR_SAMPLES), 1, "coloured noise", str(colour))[:, 0] - 0.5
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
    sound = np.fft.irfft(spectrum)
    return np.clip(sound / sound.std() * 3276.8, -32768, 32767).astype(np.int16)
