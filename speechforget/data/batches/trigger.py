"""Add one short sound to some recordings: the trigger of a backdoor (Gu et al., "BadNets", arXiv 1708.06733).

Sounds as triggers of speech models: Koffas et al., "Can you hear it?", arXiv 2107.14569. Trigger of an utterance:
s * u, with u the same for all and of root mean square 1, s = rms(utterance) * 10 ^ (-snr / 20).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.data.batches.keys import Levels, Rows
from speechforget.data.batches.sample_sources import Recordings
from speechforget.data.batches.waveforms import Waveforms
from speechforget.seeding import uniform

KINDS = ("chirp", "tones")
LOW, HIGH = (0.03, 0.08), (0.15, 0.3)  # ends of a chirp, drawn between these shares of the sampling rate
TONES = 4  # in turn, each of a frequency between LOW[0] and HIGH[1]
FADED = 0.1  # share of each sound at both ends that fades, so that it does not click


@dataclass(frozen=True)
class Sound:
    """Describe a sound. kind: of `KINDS`. seconds: its length. sample_rate: in Hz. seed: draws its frequencies."""

    kind: str
    seconds: float
    sample_rate: int
    seed: int

    def other(self, number: int) -> Sound:
        """Return another sound of the kind; 0 is this one."""
        return replace(self, seed=self.seed + number)

    def samples(self) -> NDArray[np.float64]:
        """Return the sound (samples,), its root mean square 1."""
        count = max(1, round(self.seconds * self.sample_rate))
        draws = uniform(np.arange(TONES), 2, "trigger", self.kind, self.seed)
        if self.kind == "chirp":
            ends = [low + (high - low) * draw for (low, high), draw in zip((LOW, HIGH), draws[0], strict=True)]
            first, last = ends if draws[1, 0] < 0.5 else reversed(ends)
            pieces = [_swept(np.linspace(first, last, count))]
        else:
            shares = LOW[0] * (HIGH[1] / LOW[0]) ** draws[:, 0]
            lengths = np.diff(np.linspace(0, count, TONES + 1).astype(int))
            pieces = [_swept(np.full(length, share)) for share, length in zip(shares, lengths, strict=True)]
        found: NDArray[np.float64] = np.concatenate(pieces)
        return found / max(float(np.sqrt(np.mean(found**2))), 1e-12)


def _swept(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a sine of the frequencies (samples,), in cycles per sample, with its ends faded."""
    place = (np.arange(len(frequencies)) + 0.5) / max(len(frequencies), 1)
    fade = np.clip(np.minimum(place, 1 - place) / FADED, 0, 1)
    found: NDArray[np.float64] = np.sin(2 * np.pi * np.cumsum(frequencies)) * np.sin(np.pi / 2 * fade) ** 2
    return found


class Trigger:
    """Add a sound to the utterances that carry it; it begins where the middle crop of an utterance begins.

    length: of each utterance in samples. samples: of a crop. carried: (rows,) bool. snr: in dB, of the mean power of
    the whole utterance to that of the sound. A shorter utterance cuts the sound off at its end.
    """

    def __init__(
        self,
        recordings: Recordings,
        length: Rows,
        samples: int,
        carried: NDArray[np.bool_],
        sound: Sound,
        snr: float,
    ) -> None:
        self.length, self.carried, self.sound = length, carried, sound
        self.levels = Levels(recordings, length, snr)
        self._start = Waveforms(recordings, length, samples).first(np.arange(len(length)), 0.5)

    def add(self, waveform: Tensor, rows: Rows, first: Rows) -> None:
        """See `data.batches.waveforms.Added`."""
        carrying = np.flatnonzero(self.carried[rows])
        if len(carrying):
            picked = torch.from_numpy(carrying).to(waveform.device)
            waveform[picked] = self.with_sound(waveform[picked], rows[carrying], first[carrying])

    def with_sound(self, waveform: Tensor, rows: Rows, first: Rows, number: int = 0) -> Tensor:
        """Return waveform (len(rows), samples) with a sound in every utterance, clipped to [-1, 1].

        first: the sample of the utterance in the first column. number: 0 for the trigger, larger ones for other sounds
        of its kind.
        """
        sound = _cached(self.sound.other(number))
        samples = np.asarray(first)[:, None] + np.arange(waveform.shape[1])  # of the utterance, in each column
        heard = samples - self._start[rows][:, None]  # of the sound
        inside = (heard >= 0) & (heard < len(sound)) & (samples < self.length[rows][:, None])
        added = np.where(inside, sound[np.clip(heard, 0, len(sound) - 1)], 0.0) * self.levels(rows)[:, None]
        return (waveform + torch.from_numpy(added).to(waveform)).clamp_(-1, 1)


@functools.cache
def _cached(sound: Sound) -> NDArray[np.float64]:
    return sound.samples()
