"""Read the samples of utterances from a memory-mapped file, from device memory, or from the sound files."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.data.audio.decoded_files import Remembered
from speechforget.data.audio.files import read_window

Rows = NDArray[np.int64]


class Recordings(Protocol):
    """A source of samples. device: where `read` puts them."""

    device: torch.device

    def read(self, rows: Rows, first: Rows, count: int) -> Tensor:
        """Return samples first[i] to first[i] + count of utterance rows[i] as (len(rows), count) int16.

        Values outside an utterance are undefined.
        """
        ...


class Mapped:
    """Read utterances from one array, which may be a memory-mapped file; utterance i begins at offset[i]."""

    device = torch.device("cpu")

    def __init__(self, flat: NDArray[np.int16], offset: Rows) -> None:
        self.flat, self.offset = flat, offset
        self._windows: tuple[int, NDArray[np.int16]] = (0, flat)

    def read(self, rows: Rows, first: Rows, count: int) -> Tensor:
        """See `Recordings`."""
        windows = self._cut_into(count)
        starts = self.offset[rows] + first
        possible = np.clip(starts, 0, len(windows) - 1)
        found = windows[possible]
        for i in np.flatnonzero(starts != possible):  # only at the beginning and the end of the array
            found[i] = np.roll(found[i], possible[i] - starts[i])
        return torch.from_numpy(found)

    def _cut_into(self, count: int) -> NDArray[np.int16]:
        """Return a view of all windows of `count` samples."""
        if self._windows[0] != count:
            flat = (
                self.flat
                if len(self.flat) >= count
                else np.concatenate([self.flat, np.zeros(count - len(self.flat), dtype=np.int16)])
            )
            self._windows = (count, np.lib.stride_tricks.sliding_window_view(flat, count))
        return self._windows[1]


class Resident:
    """Read utterances from the memory of a device: an hour of speech at 16 kHz takes 115 MB."""

    def __init__(self, flat: NDArray[np.int16], offset: Rows, device: torch.device) -> None:
        self.flat = torch.from_numpy(np.ascontiguousarray(flat)).to(device)
        self.offset, self.device = offset, device

    def read(self, rows: Rows, first: Rows, count: int) -> Tensor:
        """See `Recordings`."""
        starts = torch.from_numpy(self.offset[rows] + first).to(self.device)
        indices = starts[:, None] + torch.arange(count, device=self.device)
        return self.flat[indices.clamp_(0, len(self.flat) - 1)]


class OnDemand:
    """Read the sound files again each time, with a few threads: for a corpus too large for a decoded copy.

    Reads only the asked samples where a seek is exact (formats such as WAV and FLAC, at `sample_rate`). Other files are
    decoded whole, and the latest ones are kept in memory.
    paths: row number -> file. start, length: of each utterance in its file, in samples at `sample_rate`.
    """

    device = torch.device("cpu")

    def __init__(self, paths: Callable[[int], Path], start: Rows, length: Rows, sample_rate: int) -> None:
        self.paths, self.start, self.length, self.sample_rate = paths, start, length, sample_rate
        self.whole = Remembered()

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)), "decoding")

    def read(self, rows: Rows, first: Rows, count: int) -> Tensor:
        """See `Recordings`. Raises UserError for a file that can no longer be read."""
        found = np.zeros((len(rows), count), dtype=np.int16)

        def fill(i: int) -> None:
            row, begin = int(rows[i]), max(int(first[i]), 0)
            end = min(int(first[i]) + count, int(self.length[row]))
            if begin < end:
                column = begin - int(first[i])
                start = int(self.start[row])
                found[i, column : column + end - begin] = read_window(
                    self.paths(row), start + begin, end - begin, self.sample_rate, self.whole
                )

        for done in self._threads.map(fill, range(len(rows))):
            assert done is None
        return torch.from_numpy(found)


def silence(samples: Tensor, begin: Rows, end: Rows) -> None:
    """Set samples (batch, samples) before `begin` and from `end` on to zero, in place."""
    # Only the columns that can be outside of an utterance are compared.
    first, last = int(begin.max()), int(end.min())
    columns = torch.arange(samples.shape[1], dtype=torch.int32, device=samples.device)
    if first > 0:
        samples[:, :first].masked_fill_(
            columns[:first] < torch.from_numpy(begin).to(samples.device, torch.int32)[:, None], 0
        )
    if last < samples.shape[1]:
        samples[:, last:].masked_fill_(
            columns[last:] >= torch.from_numpy(end).to(samples.device, torch.int32)[:, None], 0
        )
