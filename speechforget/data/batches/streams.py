"""Yield batches of utterances in an order that depends on seeds only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.batch import Batch, Pair, cut, nothing
from speechforget.data.batches.prefetch import prefetch
from speechforget.data.batches.waveforms import Augmentation, Waveforms
from speechforget.seeding import order, uniform

# Utterances are sorted by length within so many batches, so that batches still differ from epoch to epoch.
BUCKETED_BATCHES = 32
SAMPLES_AT_ONCE = 2**22  # 16 MB of waveforms
WIDTHS = 20  # bucketed batches have one of so many widths: a compiler or a memory pool sees each only once


@dataclass(frozen=True)
class Stream:
    """Yield batches of some rows, in the given order without a salt, else shuffled by it.

    The last batch may be smaller; it is kept.
    labels, forget: of every row of the table.
    salt: what all random draws of this pass depend on, such as (seed, pass number).
    share: (rank, ranks). This rank gets its part of each batch; all ranks together get every row once. A batch with
        fewer rows than there are ranks is given to every rank as a whole.
    bucketed: group utterances of similar length; a batch is padded to its longest utterance.
    position: of crops, where there is no salt. depth: how many batches a thread prepares in advance.
    first: rows of the first batch, if not `batch_size`.
    """

    waveforms: Waveforms
    labels: NDArray[np.int64]
    forget: NDArray[np.bool_]
    rows: NDArray[np.int64]
    batch_size: int
    salt: tuple[int | str, ...] | None = None
    augment: Augmentation | None = None
    share: tuple[int, int] = (0, 1)
    bucketed: bool = False
    position: float = 0.5
    depth: int = 0
    first: int | None = None

    def reshuffled(self, round_: int) -> Stream:
        """Return the same rows in another order: the next round of this stream."""
        assert self.salt is not None
        return replace(self, salt=(*self.salt, round_))

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil((len(self.rows) + self.missing) / self.batch_size)

    @property
    def missing(self) -> int:
        """Return how many rows the first batch lacks to be a full one."""
        return 0 if self.first is None else self.batch_size - self.first

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self.batches(), self.depth)

    def batches(self) -> Iterator[Batch]:
        """Yield batches; read several small ones at once, since most of the cost of a read is fixed."""
        together = (
            1
            if self.bucketed or self.share[1] > 1
            else max(1, SAMPLES_AT_ONCE // (self.batch_size * self.waveforms.samples))
        )
        steps = self.steps()
        while group := list(itertools.islice(steps, together)):
            if len(group) == 1:
                yield self.batch(group[0], whole=len(group[0]) < self.share[1])
                continue
            all_of_them = self.batch(np.concatenate(group), whole=True)
            ends = list(itertools.accumulate(map(len, group)))
            for start, end in zip([0, *ends], ends, strict=False):
                yield cut(all_of_them, start, end)

    def steps(self) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch, of all ranks together."""
        rows = self.rows if self.salt is None else order(self.rows, *self.salt, "order")
        if self.bucketed:
            rows = self._by_length(rows)
        steps = [
            rows[max(start, 0) : start + self.batch_size] for start in range(-self.missing, len(rows), self.batch_size)
        ]
        if self.missing:
            yield steps.pop(0)
        if not self.bucketed or self.salt is None:
            yield from steps
            return
        for step in order(np.arange(len(steps)), *self.salt, "batches"):
            yield steps[step]

    def _by_length(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort rows by length; in a shuffled stream only within groups of BUCKETED_BATCHES batches."""
        length = self.waveforms.crop_lengths(rows)
        neighbours = (
            np.arange(len(rows)) // (self.batch_size * BUCKETED_BATCHES)
            if self.salt is not None
            else np.zeros_like(rows)
        )
        return rows[np.lexsort((np.arange(len(rows)), length, neighbours))]

    def batch(self, rows: NDArray[np.int64], whole: bool) -> Batch:
        """Return the batch of these rows, or only this rank's share of it unless `whole`."""
        rank, ranks = self.share
        width = self._width(rows)
        if ranks == 1 or whole:
            return self._gathered(rows, width)
        mine = rows[rank::ranks]
        weights = torch.full((len(mine),), 1 / len(rows), dtype=torch.float64)
        return self._gathered(mine, width)._replace(weights=weights)

    def _width(self, rows: NDArray[np.int64]) -> int:
        """Return the width of the waveforms of a step in samples, one of WIDTHS values."""
        if not self.bucketed:
            return self.waveforms.samples
        longest = (self.waveforms.crop_lengths(rows) + self._delays(rows)).max()
        grain = math.ceil(self.waveforms.samples / WIDTHS)
        return min(self.waveforms.samples, max(1, math.ceil(longest / grain)) * grain)

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | float:
        """Return the position of each crop, drawn if any utterance needs cropping; the middle of a keyed utterance."""
        assert self.salt is not None
        if not (self.waveforms.length[rows] > self.waveforms.samples).any():
            return 0.0
        drawn = uniform(rows, 1, *self.salt, "crop")[:, 0]
        keys = self.waveforms.added
        return drawn if keys is None else np.where(keys.carried[rows], 0.5, drawn)

    def _delays(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.salt is None or self.augment is None:
            return np.zeros_like(rows)
        return self.augment.delays(self.waveforms.crop_lengths(rows), rows, self.salt)

    def _gathered(self, rows: NDArray[np.int64], width: int) -> Batch:
        return Batch(
            self._inputs(rows, width),
            torch.from_numpy(self.labels[rows]),
            torch.from_numpy(rows),
            torch.from_numpy(self.forget[rows]),
        )

    def _inputs(self, rows: NDArray[np.int64], width: int) -> tuple[Tensor, ...]:
        spans = None
        if self.salt is None:
            waveform, lengths = self.waveforms.gather(rows, self.position, width=width)
        else:
            waveform, lengths = self.waveforms.gather(rows, self._positions(rows), self._delays(rows), width)
            if self.augment is not None:
                waveform, spans = self.augment(waveform, lengths, rows, self.salt)
        lengths = lengths.to(waveform.device)
        return (waveform, lengths) if spans is None else (waveform, lengths, spans)


@dataclass(frozen=True)
class Paired:
    """Yield a forget and a retain batch in each of `steps` steps; a stream that ends starts again, reshuffled.

    again: if false, the forget stream does not start again, and its batch is None from then on.
    """

    forget: Stream
    retain: Stream
    steps: int
    again: bool = True

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def __iter__(self) -> Iterator[Pair]:
        return prefetch(self._pairs(), self.forget.depth)

    def _pairs(self) -> Iterator[Pair]:
        if self.forget.share[1] == 1:
            forget = (
                _rounds(self.forget) if self.again else itertools.chain(self.forget.batches(), itertools.repeat(None))
            )
            yield from itertools.islice(map(Pair, forget, _rounds(self.retain)), self.steps)
            return
        sides = zip(_rows(self.forget), _rows(self.retain), strict=False)
        for step, ((first, forget_rows), (second, retain_rows)) in zip(range(self.steps), sides, strict=False):
            used_up = not self.again and step >= len(self.forget)
            whole = (len(retain_rows) if used_up else min(len(forget_rows), len(retain_rows))) < self.forget.share[1]
            yield Pair(None if used_up else first.batch(forget_rows, whole), second.batch(retain_rows, whole))


@dataclass(frozen=True)
class Turns:
    """Yield `steps` retain batches, and a forget batch before the first and then before each `every`-th of them.

    A stream that ends starts again, reshuffled.
    """

    forget: Stream
    retain: Stream
    steps: int
    every: int

    def __len__(self) -> int:
        """Return the number of batches of both streams."""
        return self.steps + math.ceil(self.steps / self.every)

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self._batches(), self.forget.depth)

    def _batches(self) -> Iterator[Batch]:
        forget, retain = _rounds(self.forget), _rounds(self.retain)
        for step in range(self.steps):
            if step % self.every == 0:
                yield next(forget)
            yield next(retain)


@dataclass(frozen=True)
class Nothing:
    """Yield empty batches, for methods that bring their own data."""

    steps: int

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (nothing() for _ in range(self.steps))


def _reshuffled(stream: Stream) -> Iterator[Stream]:
    """Yield the stream, then its reshuffled rounds without end."""
    for round_ in itertools.count():
        if round_ and stream.salt is not None:
            stream = stream.reshuffled(round_)
        yield stream


def _rounds(stream: Stream) -> Iterator[Batch]:
    return itertools.chain.from_iterable(again.batches() for again in _reshuffled(stream))


def _rows(stream: Stream) -> Iterator[tuple[Stream, NDArray[np.int64]]]:
    return ((again, rows) for again in _reshuffled(stream) for rows in again.steps())


class Sources:
    """Make ordered or shuffled streams of a run's utterances by name (train, forget, retain, validation ...).

    rows: the row numbers of each name. augment: applied to shuffled streams only. share, bucketed, depth: see `Stream`.
    windows: how many crops of a longer utterance are scored.
    """

    def __init__(
        self,
        waveforms: Waveforms,
        labels: NDArray[np.int64],
        rows: Mapping[str, NDArray[np.int64]],
        augment: Augmentation | None = None,
        share: tuple[int, int] = (0, 1),
        *,
        bucketed: bool = False,
        windows: int = 1,
        depth: int = 0,
    ) -> None:
        self.waveforms, self.labels, self.rows, self.augment, self.share = waveforms, labels, dict(rows), augment, share
        self.bucketed, self.windows, self.depth = bucketed, windows, depth
        self._forget = np.zeros(len(labels), dtype=np.bool_)
        self._forget[self.rows.get("forget", np.empty(0, dtype=np.int64))] = True

    def with_rows(self, **rows: NDArray[np.int64]) -> Sources:
        """Return the same sources with other rows of some names; recordings are shared."""
        return Sources(
            self.waveforms,
            self.labels,
            {**self.rows, **rows},
            self.augment,
            self.share,
            bucketed=self.bucketed,
            windows=self.windows,
            depth=self.depth,
        )

    def ordered(self, name: str, batch_size: int) -> Stream:
        """Return the utterances in the order of the table, not augmented, all of them on every rank."""
        return self._stream(self.rows[name], batch_size)

    def sharded(self, name: str, batch_size: int) -> Stream:
        """Return this rank's part of `ordered`, sorted by length if bucketed.

        Every utterance is on exactly one rank; a rank may have none.
        """
        rank, ranks = self.share
        return replace(self._stream(self.rows[name][rank::ranks], batch_size), bucketed=self.bucketed)

    def shuffled(self, rows: NDArray[np.int64], batch_size: int, salt: tuple[int | str, ...]) -> Stream:
        """Return some rows shuffled by the salt and augmented; of each batch, this rank's share."""
        return replace(
            self._stream(rows, batch_size), salt=salt, augment=self.augment, share=self.share, bucketed=self.bucketed
        )

    def _stream(self, rows: NDArray[np.int64], batch_size: int) -> Stream:
        return Stream(self.waveforms, self.labels, self._forget, rows, batch_size, depth=self.depth)
