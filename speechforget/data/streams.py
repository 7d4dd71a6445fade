"""From row numbers to batches: vectorised gathers out of the memory-mapped recordings, in orders that depend on seeds alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.batch import Batch, Pair
from speechforget.draws import order, uniform


class Augmentation(Protocol):
    """What `Augment` does once it knows its noise: (waveform, lengths, rows, salt) -> (waveform, lengths, spans or None)."""

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One augmented batch."""
        ...


class Waveforms:
    """Crops of `samples` length out of one flat int16 array; utterance i lies at offset[i] and is length[i] samples long."""

    def __init__(self, flat: NDArray[np.int16], offset: NDArray[np.int64], length: NDArray[np.int64], samples: int) -> None:
        if len(flat) < samples:
            flat = np.concatenate([flat, np.zeros(samples - len(flat), dtype=np.int16)])
        self.flat, self.offset, self.length, self.samples = flat, offset, length, samples
        self._windows = np.lib.stride_tricks.sliding_window_view(flat, samples)

    def gather(self, rows: NDArray[np.int64], position: NDArray[np.float64] | float = 0.5) -> tuple[Tensor, Tensor]:
        """Waveforms (len(rows), samples) float32 in [-1, 1) and lengths in samples.

        position: where in an utterance that is too long the crop lies, from 0 (its start) to 1 (its end).
        """
        slack = np.maximum(self.length[rows] - self.samples, 0)
        starts = self.offset[rows] + (slack * np.asarray(position)).astype(np.int64)
        lengths = np.minimum(self.length[rows], self.samples)
        last = len(self.flat) - self.samples
        crops = self._windows[np.minimum(starts, last)]
        for i in np.flatnonzero(starts > last):
            crops[i] = np.roll(crops[i], last - starts[i])
        if (lengths < self.samples).any():
            crops[np.arange(self.samples) >= lengths[:, None]] = 0
        return torch.from_numpy(crops).to(torch.float32).div_(32768.0), torch.from_numpy(lengths)


class Stream:
    """Batches of some rows, in their own order, or shuffled where a salt is given (the same salt, the same order and draws).

    salt: what the draws of this pass depend on, such as (seed, pass number). The last, smaller batch is kept.
    share: (rank, ranks): this rank's part of each batch; all ranks together see every row once. A batch smaller than the ranks is whole on each.
    """

    def __init__(
        self,
        waveforms: Waveforms,
        labels: NDArray[np.int64],
        forget: NDArray[np.bool_],
        rows: NDArray[np.int64],
        batch_size: int,
        salt: tuple[int | str, ...] | None = None,
        augment: Augmentation | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.waveforms, self.labels, self.forget = waveforms, labels, forget
        self.batch_size, self.salt, self.augment, self.share = batch_size, salt, augment, share
        self.rows = rows if salt is None else order(rows, *salt, "order")

    def reshuffled(self, round_: int) -> Stream:
        """The same rows in another order: the stream's next round."""
        assert self.salt is not None
        return Stream(self.waveforms, self.labels, self.forget, self.rows, self.batch_size, (*self.salt, round_), self.augment, self.share)

    def __len__(self) -> int:
        """Batches in the stream."""
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.steps():
            yield self.batch(rows, whole=len(rows) < self.share[1])

    def steps(self) -> Iterator[NDArray[np.int64]]:
        """The rows of each batch, over all ranks."""
        for start in range(0, len(self.rows), self.batch_size):
            yield self.rows[start : start + self.batch_size]

    def batch(self, rows: NDArray[np.int64], whole: bool) -> Batch:
        """This rank's share of a step's rows, or all of them."""
        rank, ranks = self.share
        if ranks == 1 or whole:
            return self._gathered(rows)
        mine = rows[rank::ranks]
        return self._gathered(mine)._replace(weights=torch.full((len(mine),), 1 / len(rows), dtype=torch.float64))

    def _gathered(self, rows: NDArray[np.int64]) -> Batch:
        if self.salt is None:
            inputs: tuple[Tensor, ...] = self.waveforms.gather(rows)
        else:
            waveform, lengths = self.waveforms.gather(rows, uniform(rows, 1, *self.salt, "crop")[:, 0])
            if self.augment is None:
                inputs = (waveform, lengths)
            else:
                waveform, lengths, spans = self.augment(waveform, lengths, rows, self.salt)
                inputs = (waveform, lengths) if spans is None else (waveform, lengths, spans)
        return Batch(inputs, torch.from_numpy(self.labels[rows]), torch.from_numpy(rows), torch.from_numpy(self.forget[rows]))


class Paired:
    """A forget and a retain batch a step, for `steps` steps; a side that ends starts again, reshuffled."""

    def __init__(self, forget: Stream, retain: Stream, steps: int) -> None:
        self.forget, self.retain, self.steps = forget, retain, steps

    def __len__(self) -> int:
        """Steps."""
        return self.steps

    def __iter__(self) -> Iterator[Pair]:
        pairs = zip(_endless(self.forget), _endless(self.retain), strict=False)
        for _, ((forget, forget_rows), (retain, retain_rows)) in zip(range(self.steps), pairs, strict=False):
            whole = min(len(forget_rows), len(retain_rows)) < self.forget.share[1]
            yield Pair(forget.batch(forget_rows, whole), retain.batch(retain_rows, whole))


def _endless(stream: Stream) -> Iterator[tuple[Stream, NDArray[np.int64]]]:
    for round_ in itertools.count():
        if round_ and stream.salt is not None:
            stream = stream.reshuffled(round_)
        for rows in stream.steps():
            yield stream, rows


class Sources:
    """The utterances of one run by name (train, forget, retain, validation ...), as ordered or shuffled streams.

    rows: the row numbers behind each name. `augment` acts on shuffled streams only. share: (rank, ranks), see `Stream`.
    """

    def __init__(
        self,
        waveforms: Waveforms,
        labels: NDArray[np.int64],
        rows: Mapping[str, NDArray[np.int64]],
        augment: Augmentation | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.waveforms, self.labels, self.rows, self.augment, self.share = waveforms, labels, dict(rows), augment, share
        self._forget = np.zeros(len(labels), dtype=np.bool_)
        self._forget[self.rows.get("forget", np.empty(0, dtype=np.int64))] = True

    def ordered(self, name: str, batch_size: int) -> Stream:
        """The utterances as they stand in the table, without augmentation: all of them on every rank."""
        return Stream(self.waveforms, self.labels, self._forget, self.rows[name], batch_size)

    def divided(self, name: str, batch_size: int) -> Stream:
        """This rank's part of `ordered`: every utterance is on exactly one rank, and a rank may have none."""
        rank, ranks = self.share
        return Stream(self.waveforms, self.labels, self._forget, self.rows[name][rank::ranks], batch_size)

    def shuffled(self, rows: NDArray[np.int64], batch_size: int, salt: tuple[int | str, ...]) -> Stream:
        """Some rows in the order that the salt gives, augmented; of each batch this rank's share."""
        return Stream(self.waveforms, self.labels, self._forget, rows, batch_size, salt, self.augment, self.share)
