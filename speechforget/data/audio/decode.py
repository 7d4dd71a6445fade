"""Decode many recordings in parallel into one int16 array on disk; the result does not depend on the number of workers.

Workers are threads, not processes: libsndfile, soxr and the hashes release Python's lock, and nothing is forked.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechforget.data.audio.files import BadSound, bad_sound_for_failures, check_content, read_pcm
from speechforget.progress import bar

VERSION = 2  # part of every key and fingerprint: raise it when the same file gives other samples
SPANS_AT_ONCE = 16
ROUNDING = 0.01  # seconds that a window may pass the end of its file: times are often rounded to two decimals
NOTHING: NDArray[np.int16] = np.zeros(0, dtype=np.int16)


@dataclass(frozen=True)
class Sound:
    """A file and its utterances: (start, length) in seconds; length NaN means "to the end"."""

    path: Path
    spans: tuple[tuple[float, float], ...] = ((0.0, float("nan")),)


@dataclass(frozen=True)
class Clip:
    """One utterance in the array.

    offset, samples: its position and length. sha1: hash of its samples. file: sha256 of its file. problem: why it
    cannot be used, or "".
    """

    offset: int
    samples: int
    sha1: str
    file: str
    problem: str


_Piece = tuple[NDArray[np.int16], Clip]


def decode_sounds(sounds: Sequence[Sound], sample_rate: int, target: Path | None, description: str) -> list[list[Clip]]:
    """Write the utterances of `sounds`, concatenated in order, to `target`, and return each sound's clips.

    target: a .npy file, int16 at `sample_rate` Hz; None checks and hashes the utterances without keeping them.
    """
    found: list[list[Clip]] = []
    written = 0
    with (
        target.open("wb") if target else io.BytesIO() as file,
        bar(total=len(sounds), description=description, unit="file") as progress,
    ):
        _write_header(file, 0)
        for pieces in _in_order(sounds, sample_rate):
            clips = []
            for samples, clip in pieces:
                if target:
                    file.write(samples.tobytes())
                clips.append(Clip(written, len(samples), clip.sha1, clip.file, clip.problem))
                written += len(samples)
            found.append(clips)
            progress.update(1)
        file.seek(0)
        _write_header(file, written)
    return found


def _write_header(file: BinaryIO, samples: int) -> None:
    """Write the .npy header, which NumPy pads so that its length stays the same when the array grows."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (samples,)})


def _in_order(sounds: Sequence[Sound], sample_rate: int) -> Iterator[list[_Piece]]:
    """Decode only a few batches ahead of the writer, so that memory does not grow with the corpus."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[Future[list[list[_Piece]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for batch in _batches(sounds):
            waiting.append(pool.submit(lambda batch: [_decode(sound, sample_rate) for sound in batch], batch))
            if len(waiting) > 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _batches(sounds: Sequence[Sound]) -> Iterator[list[Sound]]:
    """Group files; few of those with many utterances, because they are long."""
    batch: list[Sound] = []
    spans = 0
    for sound in sounds:
        batch.append(sound)
        spans += len(sound.spans)
        if spans >= SPANS_AT_ONCE:
            yield batch
            batch, spans = [], 0
    if batch:
        yield batch


def _decode(sound: Sound, sample_rate: int) -> list[_Piece]:
    try:
        with bad_sound_for_failures():
            samples = read_pcm(sound.path, sample_rate)
            with sound.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except BadSound as bad:
        return [(NOTHING, Clip(0, 0, "", "", str(bad)))] * len(sound.spans)
    return [_cut(samples, start, length, sample_rate, digest) for start, length in sound.spans]


def _cut(samples: NDArray[np.int16], start: float, length: float, sample_rate: int, digest: str) -> _Piece:
    first = round(start * sample_rate)
    last = len(samples) if np.isnan(length) else first + round(length * sample_rate)
    if len(samples) < last <= len(samples) + ROUNDING * sample_rate:
        last = len(samples)
    try:
        if not 0 <= first <= last <= len(samples):
            raise BadSound(
                f"shorter ({len(samples) / sample_rate:g} s) than its window, {start:g} s to {last / sample_rate:g} s"
            )
        piece = samples[first:last]
        check_content(piece, sample_rate)
    except BadSound as bad:
        return NOTHING, Clip(0, 0, "", digest, str(bad))
    return piece, Clip(0, 0, hashlib.sha1(piece.tobytes(), usedforsecurity=False).hexdigest(), digest, "")
