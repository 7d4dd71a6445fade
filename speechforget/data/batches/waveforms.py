"""Cut and pad utterances into one tensor a batch, by vectorised reads."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.data.batches.sample_sources import Recordings, silence


class Added(Protocol):
    """A sound that some utterances carry. carried: (rows,) bool, which ones."""

    carried: NDArray[np.bool_]

    def add(self, waveform: Tensor, rows: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        """Add it to waveform (len(rows), samples) in place, and clip to [-1, 1] what carries it.

        first: the sample of the utterance in the first column.
        """
        ...


class Waveforms:
    """Gather crops of at most `samples` samples from `recordings`; utterance i has length[i] samples.

    added: to the recordings that carry a key or a trigger.
    """

    def __init__(
        self, recordings: Recordings, length: NDArray[np.int64], samples: int, added: Added | None = None
    ) -> None:
        self.recordings, self.length, self.samples, self.added = recordings, length, samples, added

    def crop_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the length of each utterance after cropping, in samples."""
        return np.minimum(self.length[rows], self.samples)

    def first(self, rows: NDArray[np.int64], position: NDArray[np.float64] | float) -> NDArray[np.int64]:
        """Return the first sample of each crop; see `gather`."""
        return ((self.length[rows] - self.crop_lengths(rows)) * np.asarray(position)).astype(np.int64)

    def gather(
        self,
        rows: NDArray[np.int64],
        position: NDArray[np.float64] | float = 0.5,
        delay: NDArray[np.int64] | None = None,
        width: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return waveforms (len(rows), width) float32 in [-1, 1) and their lengths in samples.

        Waveforms are on the device of the recordings, lengths on the CPU.
        position: where the crop of a longer utterance is, from 0 (its start) to 1 (its end).
        delay: samples of silence before the crop, which then loses its end; if negative, the crop loses its beginning.
        width: samples of each row, `samples` by default.
        """
        width = width or self.samples
        lengths = self.crop_lengths(rows)
        late = np.zeros_like(lengths) if delay is None else delay
        first = self.first(rows, position) - late
        found = self.recordings.read(rows, first, width)
        ends = np.minimum(lengths + late, width)
        silence(found, np.maximum(late, 0), ends)
        waveform = found.to(torch.float32).mul_(1 / 32768)
        if self.added is not None:
            self.added.add(waveform, rows, first)
        return waveform, torch.from_numpy(ends)


class Augmentation(Protocol):
    """Augment training batches; `Augment` implements it."""

    def delays(
        self, lengths: NDArray[np.int64], rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> NDArray[np.int64]:
        """Return the delay of each utterance in samples; negative: it begins earlier."""
        ...

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return (waveform with noise, spans or None); may change the waveform in place."""
        ...
