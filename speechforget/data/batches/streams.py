"""From row numbers to batches: vectorised gathers out of the memory-mapped recordings, in orders that depend on seeds alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.batch import Batch, Pair, cut, nothing
from speechforget.data.batches.prefetch import ahead
from speechforget.data.batches.sample_sources import Recordings, silence
from speechforget.seeding import order, uniform

BUCKETED_BATCHES = 32  # utterances are sorted by length among as many batches: short and long ones, but not the whole epoch in the same batches
SAMPLES_AT_ONCE = 2**22  # 16 MB of waveforms
ROOMS = 20  # how many different lengths of batches there are: a compiler or a device's memory pool meets each once


class Augmentation(Protocol):
    """What `Augment` does."""

    def delays(
        self, lengths: NDArray[np.int64], rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> NDArray[np.int64]:
        """How much later each utterance begins, in samples; earlier where negative."""
        ...

    def __call__(
        self, waveform: Tensor, lengths: Tensor, rows: NDArray[np.int64], salt: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """(waveform with noise, spans or None); may change its waveform."""
        ...


class Waveforms:
    """Crops out of `recordings`, at most `samples` long; utterance i is length[i] samples long."""

    def __init__(self, recordings: Recordings, length: NDArray[np.int64], samples: int) -> None:
        self.recordings, self.length, self.samples = recordings, length, samples

    def heard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length of what is left of each utterance, in samples."""
        return np.minimum(self.length[rows], self.samples)

    def gather(
        self,
        rows: NDArray[np.int64],
        position: NDArray[np.float64] | float = 0.5,
        delay: NDArray[np.int64] | None = None,
        room: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Waveforms (len(rows), room) float32 in [-1, 1), on the recordings' device, and lengths in samples, on the CPU.

        position: where in an utterance that is too long the crop lies, from 0 (its start) to 1 (its end). delay: samples by which the crop then
        begins later, after silence, losing its end, or earlier, losing its beginning. room: `samples` if not given.
        """
        room = room or self.samples
        heard = self.heard(rows)
        late = np.zeros_like(heard) if delay is None else delay
        first = ((self.length[rows] - heard) * np.asarray(position)).astype(np.int64) - late
        found = self.recordings.read(rows, first, room)
        ends = np.minimum(heard + late, room)
        silence(found, np.maximum(late, 0), ends)
        return found.to(torch.float32).mul_(1 / 32768), torch.from_numpy(ends)


@dataclass(frozen=True)
class Stream:
    """Batches of some rows, in their own order, or shuffled where a salt is given (the same salt, the same order and draws).

    labels, forget: of every row of the table. salt: what the draws of this pass depend on, such as (seed, pass number). The last, smaller batch
    is kept. share: (rank, ranks): this rank's part of each batch; all ranks together see every row once. A batch smaller than the ranks is whole on
    each.
    bucketed: utterances of like length share a batch, which is as long as the longest of them. position: of crops where there is no salt.
    depth: how many batches a thread makes in advance. first: rows of the first batch, where that is not `batch_size`.
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
        """The same rows in another order: the stream's next round."""
        assert self.salt is not None
        return replace(self, salt=(*self.salt, round_))

    def __len__(self) -> int:
        """Batches in the stream."""
        return math.ceil((len(self.rows) + self.missing) / self.batch_size)

    @property
    def missing(self) -> int:
        """By how many rows the first batch is smaller than the others."""
        return 0 if self.first is None else self.batch_size - self.first

    def __iter__(self) -> Iterator[Batch]:
        return ahead(self.batches(), self.depth)

    def batches(self) -> Iterator[Batch]:
        """Made when they are asked for; several at a time, where they are small: most of what making one costs is calling for it."""
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
        """The rows of each batch, over all ranks."""
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
        """Sorted by length, in a shuffled stream only among those that come within BUCKETED_BATCHES of one another."""
        length = self.waveforms.heard(rows)
        neighbours = (
            np.arange(len(rows)) // (self.batch_size * BUCKETED_BATCHES)
            if self.salt is not None
            else np.zeros_like(rows)
        )
        return rows[np.lexsort((np.arange(len(rows)), length, neighbours))]

    def batch(self, rows: NDArray[np.int64], whole: bool) -> Batch:
        """This rank's share of a step's rows, or all of them."""
        rank, ranks = self.share
        room = self._room(rows)
        if ranks == 1 or whole:
            return self._gathered(rows, room)
        mine = rows[rank::ranks]
        return self._gathered(mine, room)._replace(weights=torch.full((len(mine),), 1 / len(rows), dtype=torch.float64))

    def _room(self, rows: NDArray[np.int64]) -> int:
        """Samples of the step's waveforms, in one of ROOMS sizes."""
        if not self.bucketed:
            return self.waveforms.samples
        longest = (self.waveforms.heard(rows) + self._delays(rows)).max()
        grain = math.ceil(self.waveforms.samples / ROOMS)
        return min(self.waveforms.samples, max(1, math.ceil(longest / grain)) * grain)

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | float:
        """Where crops lie; drawn where there is something to crop."""
        assert self.salt is not None
        return (
            uniform(rows, 1, *self.salt, "crop")[:, 0]
            if (self.waveforms.length[rows] > self.waveforms.samples).any()
            else 0.0
        )

    def _delays(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.salt is None or self.augment is None:
            return np.zeros_like(rows)
        return self.augment.delays(self.waveforms.heard(rows), rows, self.salt)

    def _gathered(self, rows: NDArray[np.int64], room: int) -> Batch:
        return Batch(
            self._inputs(rows, room),
            torch.from_numpy(self.labels[rows]),
            torch.from_numpy(rows),
            torch.from_numpy(self.forget[rows]),
        )

    def _inputs(self, rows: NDArray[np.int64], room: int) -> tuple[Tensor, ...]:
        spans = None
        if self.salt is None:
            waveform, lengths = self.waveforms.gather(rows, self.position, room=room)
        else:
            waveform, lengths = self.waveforms.gather(rows, self._positions(rows), self._delays(rows), room)
            if self.augment is not None:
                waveform, spans = self.augment(waveform, lengths, rows, self.salt)
        lengths = lengths.to(waveform.device)
        return (waveform, lengths) if spans is None else (waveform, lengths, spans)


@dataclass(frozen=True)
class Paired:
    """A forget and a retain batch a step, for `steps` steps; a side that ends starts again, reshuffled.

    again: False: forget is not started again; None stands in its place.
    """

    forget: Stream
    retain: Stream
    steps: int
    again: bool = True

    def __len__(self) -> int:
        """Steps."""
        return self.steps

    def __iter__(self) -> Iterator[Pair]:
        return ahead(self._pairs(), self.forget.depth)

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
    """`steps` retain batches, and before each `every`th of them, the first included, a forget batch; a side that ends starts again, reshuffled."""

    forget: Stream
    retain: Stream
    steps: int
    every: int

    def __len__(self) -> int:
        """Batches of both."""
        return self.steps + math.ceil(self.steps / self.every)

    def __iter__(self) -> Iterator[Batch]:
        return ahead(self._batches(), self.forget.depth)

    def _batches(self) -> Iterator[Batch]:
        forget, retain = _rounds(self.forget), _rounds(self.retain)
        for step in range(self.steps):
            if step % self.every == 0:
                yield next(forget)
            yield next(retain)


@dataclass(frozen=True)
class Nothing:
    """Steps without data."""

    steps: int

    def __len__(self) -> int:
        """Steps."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (nothing() for _ in range(self.steps))


def _reshuffled(stream: Stream) -> Iterator[Stream]:
    """The stream, and then it again and again, each time in another order."""
    for round_ in itertools.count():
        if round_ and stream.salt is not None:
            stream = stream.reshuffled(round_)
        yield stream


def _rounds(stream: Stream) -> Iterator[Batch]:
    return itertools.chain.from_iterable(again.batches() for again in _reshuffled(stream))


def _rows(stream: Stream) -> Iterator[tuple[Stream, NDArray[np.int64]]]:
    return ((again, rows) for again in _reshuffled(stream) for rows in again.steps())


class Sources:
    """The utterances of one run by name (train, forget, retain, validation ...), as ordered or shuffled streams.

    rows: the row numbers behind each name. `augment` acts on shuffled streams only. share: (rank, ranks); bucketed, depth: see `Stream`.
    windows: how many crops of an utterance that is too long are scored.
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

    def ordered(self, name: str, batch_size: int) -> Stream:
        """The utterances as they stand in the table, without augmentation: all of them on every rank."""
        return self._stream(self.rows[name], batch_size)

    def divided(self, name: str, batch_size: int) -> Stream:
        """This rank's part of `ordered`: every utterance is on exactly one rank, and a rank may have none. Where bucketed, by length."""
        rank, ranks = self.share
        return replace(self._stream(self.rows[name][rank::ranks], batch_size), bucketed=self.bucketed)

    def shuffled(self, rows: NDArray[np.int64], batch_size: int, salt: tuple[int | str, ...]) -> Stream:
        """Some rows in the order that the salt gives, augmented; of each batch this rank's share."""
        return replace(
            self._stream(rows, batch_size), salt=salt, augment=self.augment, share=self.share, bucketed=self.bucketed
        )

    def _stream(self, rows: NDArray[np.int64], batch_size: int) -> Stream:
        return Stream(self.waveforms, self.labels, self._forget, rows, batch_size, depth=self.depth)
