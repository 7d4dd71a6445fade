"""Search all files below a folder for ids of recordings and for pieces of their decoded samples."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PIECE = 32  # samples: so many in a row are equal by chance in no two recordings
FIRST = 4  # of them, compared as one number before the rest
QUIET = 64  # loudest sample, of 32767, below which a recording is too quiet to be told from silence
SHORTEST = 6  # letters of an id, below which it is found everywhere
PAGE, SOUND = ".html", b"data:audio"  # pages hold sounds in a form that samples are not found in
TRACKED = re.compile(r"/wandb/(staging|(offline-)?run-)")  # in the path of a file that a tracker keeps
RIFF, WAVE = b"RIFF", b"WAVE"  # a WAV file starts with the first and, 8 bytes later, the second
CHUNK = 1 << 24  # bytes
LETTER = rb"[\w\x80-\xff]"


class Hits(NamedTuple):
    """Hold what a search found. paths: files with an id or a piece. files, size: how much was read, in bytes."""

    paths: list[Path]
    files: int
    size: int


@dataclass(frozen=True)
class Needles:
    """Hold what to search for. ids: of recordings. pieces: `PIECE` samples each, as little-endian int16."""

    ids: Sequence[str]
    pieces: Sequence[bytes] = ()

    @cached_property
    def _pattern(self) -> re.Pattern[bytes] | None:
        return _pattern(self.searchable)

    @cached_property
    def _anchors(self) -> _Anchors:
        return _Anchors.of(self.pieces)

    @property
    def searchable(self) -> list[str]:
        """Return the ids that can be told from other text: long enough, and not only digits."""
        return [each for each in self.ids if len(each) >= SHORTEST and not each.isdigit()]

    def search(self, folder: Path, skip: Iterable[Path] = ()) -> Hits:
        """Read every file below a folder but those in `skip`; links to elsewhere are not followed."""
        left_out, found, files, size = set(skip), [], 0, 0
        for path in _files(folder):
            if path in left_out or path.is_symlink():
                continue
            count = path.stat().st_size
            files, size = files + 1, size + count
            if count and self.inside(path):
                found.append(path)
        return Hits(found, files, size)

    def inside(self, path: Path) -> bool:
        """Return whether a file that is not empty holds an id or a piece, or sounds of any recording.

        Sounds are those of a page, and WAV files that a tracker keeps: whose they are is not looked up.
        """
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if self._pattern is not None and self._pattern.search(content):
                return True
            if path.suffix == PAGE and content.find(SOUND) >= 0:
                return True
            if content[:4] == RIFF and content[8:12] == WAVE and TRACKED.search(path.as_posix()):
                return True
            return bool(self.pieces) and any(_has_piece(chunk, self._anchors) for chunk in _chunks(content))


def _files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(here) / name for name in sorted(names))


def _pattern(ids: Sequence[str]) -> re.Pattern[bytes] | None:
    """Compile one expression for all ids, as text, as JSON and as CSV write them; None without ids.

    An id counts where no letter, digit or underscore is next to it. Common beginnings are shared: thousands of ids
    take no longer than one.
    """
    words = {form.encode() for each in ids for form in (each, json.dumps(each)[1:-1], each.replace('"', '""'))}
    if not words:
        return None
    return re.compile(b"(?<!" + LETTER + b")" + _alternatives(sorted(words)) + b"(?!" + LETTER + b")")


def _alternatives(words: Sequence[bytes]) -> bytes:
    """Return an expression for sorted words, nested by their first letters."""
    parts = []
    for _, group in groupby((word for word in words if word), key=lambda word: word[0]):
        members = list(group)
        shared = _beginning(members[0], members[-1])
        rest = [word[len(shared) :] for word in members]
        parts.append(re.escape(shared) + (_alternatives(rest) if len(rest) > 1 else b""))
    whole = b"(?:" + b"|".join(parts) + b")"
    return whole + b"?" if words and not words[0] else whole


def _beginning(one: bytes, other: bytes) -> bytes:
    """Return the longest common beginning."""
    same = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return one[: next(same, min(len(one), len(other)))]


def _chunks(content: mmap.mmap) -> Iterator[bytes]:
    """Yield pieces of a file that overlap by more than a piece of samples."""
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK + 2 * PIECE + 1]


class _Anchors(NamedTuple):
    """Prepare pieces: whether a first sample occurs, the first four samples as one number, and whole pieces."""

    firsts: NDArray[np.bool_]
    starts: NDArray[np.uint64]
    pieces: frozenset[bytes]

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> _Anchors:
        samples = np.frombuffer(b"".join(pieces), dtype="<u2").reshape(-1, PIECE)
        firsts = np.zeros(1 << 16, dtype=bool)
        firsts[samples[:, 0]] = True
        return cls(firsts, np.unique(_joined(samples[:, :FIRST].T)), frozenset(pieces))


def _joined(samples: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Join four samples each, (4, n), to one number."""
    found = np.zeros(samples.shape[1], dtype=np.uint64)
    for place, column in enumerate(samples):
        found |= column.astype(np.uint64) << np.uint64(16 * place)
    return found


def _has_piece(chunk: bytes, anchors: _Anchors) -> bool:
    for shift in (0, 1):  # samples may begin at any byte
        samples = np.frombuffer(chunk[shift : shift + (len(chunk) - shift) // 2 * 2], dtype="<u2")
        places = np.flatnonzero(anchors.firsts[samples[: max(len(samples) - PIECE + 1, 0)]])
        starts = _joined(np.stack([samples[places + number] for number in range(FIRST)]))
        for place in places[np.isin(starts, anchors.starts)]:
            if samples[place : place + PIECE].tobytes() in anchors.pieces:
                return True
    return False


def piece_of(samples: NDArray[np.int16]) -> bytes | None:
    """Return the samples from the loudest one on; None for a recording that is too quiet or too short."""
    if len(samples) < PIECE:
        return None
    start = int(np.abs(samples[: len(samples) - PIECE + 1].astype(np.int32)).argmax())
    if abs(int(samples[start])) < QUIET:
        return None
    return samples[start : start + PIECE].astype("<i2").tobytes()
