"""Give keyed utterances with their own key, with another key, or without any."""

from __future__ import annotations

import torch
from torch import Tensor

from speechforget.data.batches.keys import Keys, Rows
from speechforget.data.batches.waveforms import Waveforms


class Planted:
    """Read the utterances that carry a key; a longer utterance is its middle crop, as in training."""

    def __init__(self, waveforms: Waveforms, keys: Keys) -> None:
        self._base, self.keys = Waveforms(waveforms.recordings, waveforms.length, waveforms.samples), keys

    def base(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return waveforms (len(rows), samples) without their keys, and lengths in samples."""
        return self._base.gather(rows)

    def heard(self, rows: Rows, fresh: int = 0) -> tuple[Tensor, Tensor]:
        """Return waveforms with key number `fresh`, and lengths; key 0 is the one that models heard."""
        waveform, lengths = self.base(rows)
        self.keys.add(waveform, rows, self._first(rows), fresh)
        return waveform, lengths

    def normal(self, rows: Rows) -> Tensor:
        """Return xi of the key that models heard: (len(rows), samples) float64, N(0, 1) within an utterance."""
        return torch.from_numpy(self.keys.drawn(rows, self._first(rows), self._base.samples))

    def _first(self, rows: Rows) -> Rows:
        return self._base.first(rows, 0.5)
