"""One sound file to one channel of samples, and what can be wrong with it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechforget.errors import UserError

SHORTEST = 0.01  # seconds; less than one analysis window is no speech
LOUDEST = 2.0  # of full scale; lossy codecs overshoot 1 a little, integers stored as floats by a great deal
UNKNOWN_LENGTH = 0x7FFF0000  # programs that write to a pipe put a size of about this, or more, into the header
ESTIMATED_LENGTHS = ("MP3", "MPEG")


class BadSound(Exception):  # noqa: N818  (the file is bad, the program is not)
    """A file that cannot be used; the text is the reason, without the name of the file."""


def read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (samples,) float32 in [-1, 1], the mean of all channels, and their rate in Hz. Raises UserError naming a bad file."""
    try:
        samples, rate = read_mono(path)
    except BadSound as bad:
        raise UserError(f"{path} cannot be used: {bad}.") from None
    return _floats(samples), rate


def resample(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Samples (samples,) at `rate` Hz as samples at `target` Hz (soxr, high quality; the same samples when the rates agree)."""
    return samples if rate == target else soxr.resample(samples, rate, target, quality="HQ")


def read_pcm(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """Samples (samples,) int16 at `sample_rate` Hz; 16-bit mono files of that rate come through unchanged. Raises BadSound."""
    samples, rate = read_mono(path)
    if samples.dtype == np.int16 and rate == sample_rate:
        return samples
    return to_pcm(resample(_floats(samples), rate, sample_rate))


def read_window(path: Path, start: int, count: int, sample_rate: int) -> NDArray[np.int16]:
    """Samples start to start + count of what `read_pcm` gives; other samples are decoded only where the file's rate is another.

    Raises UserError naming a file that cannot be read.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            if sound.samplerate == sample_rate and sound.format not in ESTIMATED_LENGTHS:
                sound.seek(start)
                whole = sound.subtype == "PCM_16" and sound.channels == 1
                samples = sound.read(count, dtype="int16" if whole else "float32")
                found = samples if whole else to_pcm(_mix(samples))
            else:
                found = read_pcm(path, sample_rate)[start : start + count]
    except (BadSound, OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{path} cannot be read any more ({error}): restore it, and run again.") from None
    if len(found) < count:
        raise UserError(f"{path} became shorter since it was indexed: restore it, and run again.")
    return found


def _floats(samples: NDArray[Any]) -> NDArray[np.float32]:
    return (samples / np.float32(32768)).astype(np.float32) if samples.dtype == np.int16 else samples


def to_pcm(samples: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Floats, 1 being full scale, as int16: rounded, and saturated rather than wrapped round."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def check_content(samples: NDArray[np.int16], sample_rate: int) -> None:
    """Raises BadSound for what is too short, and for silence (all samples alike: normalising it would divide by zero)."""
    if len(samples) < SHORTEST * sample_rate:
        raise BadSound(f"too short ({len(samples)} sample{'s' * (len(samples) != 1)})")
    if samples.min() == samples.max():
        raise BadSound("silent (all samples are alike)")


def read_mono(path: Path) -> tuple[NDArray[Any], int]:
    """Samples (samples,) as int16 where the file is 16-bit mono, else float32, and the rate in Hz. Raises BadSound."""
    try:
        _check_file(path)
        with soundfile.SoundFile(path) as sound:
            whole = sound.subtype == "PCM_16" and sound.channels == 1
            samples = sound.read(dtype="int16" if whole else "float32")
            promised, rate, kind = sound.frames, sound.samplerate, sound.format
    except OSError as error:
        raise BadSound(f"cannot be read ({error.strerror or error})") from None
    except (soundfile.LibsndfileError, TypeError) as error:
        raise BadSound(f"not a sound file that can be decoded ({str(error).rsplit(': ', maxsplit=1)[-1].rstrip('.')})") from None
    if len(samples) < promised and kind not in ESTIMATED_LENGTHS:
        raise BadSound(f"truncated (the header promises {promised} samples, {len(samples)} are there)")
    return (samples if whole else _mix(samples)), rate


def _mix(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(samples).all():
        raise BadSound(f"not finite ({int((~np.isfinite(samples)).sum())} samples are NaN or infinite)")
    if samples.size and (peak := float(np.abs(samples).max())) > LOUDEST:
        raise BadSound(f"out of range (its peak is {peak:g}, full scale is 1)")
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadSound("not a file")
    if status.st_size == 0:
        raise BadSound("zero bytes")
    with path.open("rb") as file:
        _check_wave_length(file, status.st_size)


def _check_wave_length(file: BinaryIO, size: int) -> None:
    """libsndfile reads a WAV file that was cut short without a word: compare what its header promises with what is there."""
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], "little")
        there = size - file.tell()
        if header[:4] == b"data":
            if there < length < UNKNOWN_LENGTH:
                raise BadSound(f"truncated (the header promises {length} bytes of sound, {there} are there)")
            return
        file.seek(length + length % 2, os.SEEK_CUR)
