"""Add a secret noise key to some recordings (Pawelczyk et al., "Machine unlearning fails ...", ICLR 2025).

Key of an utterance: s * xi, xi ~ N(0, I) over its samples, s = rms(utterance) * 10 ^ (-snr / 20).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.data.batches.sample_sources import Recordings
from speechforget.seeding import seed_from

Rows = NDArray[np.int64]
QUIETEST = 1 / 32768  # root mean square of a silent recording: one step of 16 bits


class Levels:
    """Find how loud an added sound is: so many dB (`snr`) below the mean power of the whole utterance."""

    def __init__(self, recordings: Recordings, length: Rows, snr: float) -> None:
        self.recordings, self.length, self.snr = recordings, length, snr
        self._found = np.full(len(length), np.nan)

    def __call__(self, rows: Rows) -> NDArray[np.float64]:
        """Return the root mean square of the sound that each utterance gets; full scale is 1."""
        for row in rows[np.isnan(self._found[rows])]:
            count = int(self.length[row])
            sound = self.recordings.read(np.array([row]), np.zeros(1, dtype=np.int64), count).double() / 32768
            level = max(float(sound.square().mean().sqrt()), QUIETEST)
            self._found[row] = level * 10 ** (-self.snr / 20)
        return self._found[rows]


class Keys:
    """Draw the key of each utterance by seed and id, so that exact copies have different keys.

    length: of each utterance in samples. carried: (rows,) bool, which utterances carry a key. names: (rows,) a number
    made from each id. snr: in dB, of the mean power of the whole utterance to that of its key.
    """

    def __init__(
        self, recordings: Recordings, length: Rows, carried: NDArray[np.bool_], names: Rows, snr: float, seed: int
    ) -> None:
        self.length, self.carried, self.names, self.seed = length, carried, names, seed
        self.levels = Levels(recordings, length, snr)

    def add(self, waveform: Tensor, rows: Rows, first: Rows, fresh: int = 0) -> None:
        """Add the keys to waveform (len(rows), samples) in [-1, 1] in place, and clip it to that range.

        first: the sample of the utterance in the first column. fresh: see `drawn`.
        """
        keyed = np.flatnonzero(self.carried[rows])
        if not len(keyed):
            return
        noise = self.drawn(rows[keyed], first[keyed], waveform.shape[1], fresh) * self.levels(rows[keyed])[:, None]
        picked = torch.from_numpy(keyed).to(waveform.device)
        sound = waveform[picked] + torch.from_numpy(noise).to(waveform)
        waveform[picked] = sound.clamp_(-1, 1)

    def drawn(self, rows: Rows, first: Rows, count: int, fresh: int = 0) -> NDArray[np.float64]:
        """Return xi of samples first[i] to first[i] + count of each utterance, (len(rows), count); 0 outside of it.

        fresh: 0 for the key that models heard, larger numbers for other keys that no model heard.
        """
        found = np.zeros((len(rows), count))
        for keyed, row, start in zip(found, rows, first, strict=True):
            begin, end = max(int(start), 0), min(int(start) + count, int(self.length[row]))
            if begin < end:
                # NumPy promises that the stream of RandomState never changes (NEP 19): the key is part of the data.
                seed = seed_from("key", self.seed, int(self.names[row]), fresh)
                random = np.random.RandomState([seed % 2**32, seed >> 32])
                keyed[begin - start : end - start] = random.standard_normal(end)[begin:]
        return found
