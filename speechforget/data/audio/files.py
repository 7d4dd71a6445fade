"""Read one sound file as one channel of samples, and say what is wrong with a bad one."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechforget.data.audio.formats import unreadable
from speechforget.data.audio.headers import missing_end, shortfall, with_length
from speechforget.errors import UserError

SHORTEST = 0.01  # seconds: shorter than one analysis window
LOUDEST = 2.0  # of full scale: lossy codecs overshoot 1 slightly, integers stored as floats by far
BLOCK = 1 << 20  # samples of one read, over all channels
PART = 64  # samples to compare after a seek
LOWEST_RATE = 100  # Hz: damaged headers give less, and resampling from that would fill the memory
UNKNOWN_FRAMES = 1 << 62  # libsndfile gives about this number where the header gives none
# A seek is exact for these. Decoders with a state (Vorbis, Opus, MP3, ADPCM) seek inexactly and decode files whole.
EXACT_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
EXACT_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"})

Whole = Callable[[Path, int], NDArray[np.int16]]  # the signature of `read_pcm`


class BadSound(Exception):  # noqa: N818  (the file is bad, not the program)
    """A file that cannot be used; the text is the reason, without the file name."""


def read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read samples (samples,), float32 in [-1, 1], the mean of all channels, and their rate in Hz.

    Raises UserError that names a bad file.
    """
    try:
        samples, rate = read_mono(path)
    except BadSound as bad:
        raise UserError(f"{path} cannot be used: {bad}.") from None
    return _floats(samples), rate


def resample(samples: NDArray[np.float32], rate: float, target: int) -> NDArray[np.float32]:
    """Resample (samples,) from `rate` to `target` Hz with soxr in high quality; unchanged for equal rates."""
    return samples if rate == target else soxr.resample(samples, rate, target, quality="HQ")


def read_pcm(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """Read samples (samples,), int16 at `sample_rate` Hz. Raises BadSound.

    16-bit mono files of that rate stay unchanged.
    """
    samples, rate = read_mono(path)
    if samples.dtype == np.int16 and rate == sample_rate:
        return samples
    with bad_sound_for_failures():
        return to_pcm(resample(_floats(samples), rate, sample_rate))


def read_window(path: Path, start: int, count: int, sample_rate: int, whole: Whole = read_pcm) -> NDArray[np.int16]:
    """Read samples start to start + count of what `read_pcm` returns; decode the whole file only if a seek is inexact.

    whole: the function that reads a whole file, for example one that keeps the last files. Raises UserError that names
        a file that cannot be read.
    """
    try:
        with bad_sound_for_failures():
            found = _read_part(path, start, count, sample_rate)
            if found is None:
                found = whole(path, sample_rate)[start : start + count]
    except BadSound as bad:
        raise UserError(
            f"{path} cannot be read ({bad}), but it could be when it was indexed: restore it and run again."
        ) from None
    if len(found) < count:
        raise UserError(f"{path} became shorter after it was indexed: restore it and run again.")
    return found


def _read_part(path: Path, start: int, count: int, sample_rate: int) -> NDArray[np.int16] | None:
    """Read a part of a file, or return None where a seek is inexact, the rate differs, or reading fails."""
    try:
        with Stream(path) as sound:
            if not _is_exact(sound) or sound.samplerate != sample_rate or start + count > sound.frames:
                return None
            sound.seek(start)
            samples = sound.read(count, dtype=_dtype(sound))
    except soundfile.LibsndfileError:  # reading from the beginning may work, or gives the reason
        return None
    return samples if samples.dtype == np.int16 else to_pcm(_mix(samples))


def _is_exact(sound: soundfile.SoundFile) -> bool:
    """Whether a seek is exact: samples are stored one by one, or in frames that give their position."""
    return sound.format in EXACT_FORMATS and sound.subtype in EXACT_SUBTYPES and sound.frames < UNKNOWN_FRAMES


def _check_seek(sound: soundfile.SoundFile, samples: NDArray[Any]) -> None:
    """Raise BadSound where a part read after a seek differs from the whole, as with a damaged header."""
    middle = 2 * len(samples) // 3
    with suppress(soundfile.LibsndfileError):  # a file without seeks is never read in parts
        sound.seek(middle)
        part = sound.read(PART, dtype=samples.dtype.name)
        if part.tobytes() != samples[middle : middle + PART].tobytes():
            raise BadSound(f"damaged (samples after a seek to sample {middle} differ from those of the whole file)")


def _floats(samples: NDArray[Any]) -> NDArray[np.float32]:
    return (samples / np.float32(32768)).astype(np.float32) if samples.dtype == np.int16 else samples


def to_pcm(samples: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Convert floats (full scale is 1) to int16: rounded, and clipped instead of wrapped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def check_content(samples: NDArray[np.int16], sample_rate: int) -> None:
    """Raise BadSound for a sound that is too short, or silent (then normalisation would divide by zero)."""
    if len(samples) < SHORTEST * sample_rate:
        raise BadSound(f"too short ({len(samples)} sample{'s' * (len(samples) != 1)})")
    if samples.min() == samples.max():
        raise BadSound("silent (all samples are equal)")


def read_mono(path: Path) -> tuple[NDArray[Any], int]:
    """Read samples (samples,), int16 for 16-bit mono files, else float32, and the rate in Hz. Raises only BadSound."""
    with bad_sound_for_failures():
        _check_file(path)
        with Stream(with_length(path)) as sound:
            if sound.samplerate < LOWEST_RATE:
                raise BadSound(f"its sample rate is {sound.samplerate} Hz")
            samples = _read_on(sound)
            if _is_exact(sound):
                _check_seek(sound, samples)
            promised, rate, log, guessed = (
                sound.frames,
                sound.samplerate,
                sound.extra_info,
                sound.subtype.startswith("MPEG"),
            )
        if missing := shortfall(log, len(samples)) or missing_end(path, len(samples)):
            raise BadSound(f"truncated ({missing})")
        if len(samples) < promised < UNKNOWN_FRAMES and not guessed:
            raise BadSound(f"truncated (the header promises {promised} samples, the file has {len(samples)})")
        return (samples if samples.dtype == np.int16 else _mix(samples)), rate


class Stream(soundfile.SoundFile):
    """A sound file that is read from beginning to end, without the seek that soundfile makes after each read.

    Some formats cannot seek, and others seek inexactly.
    """

    def seekable(self) -> bool:
        """Forbid a seek after a read."""
        return False


@contextmanager
def bad_sound_for_failures() -> Iterator[None]:
    """Turn any failure while a file is read into a BadSound with its words, so that every error names the file."""
    try:
        yield
    except (BadSound, MemoryError):
        raise
    except OSError as error:
        raise BadSound(f"cannot be read ({error.strerror or error})") from error
    except soundfile.LibsndfileError as error:
        raise BadSound(f"not a sound file that can be decoded ({error.error_string.rstrip('.')})") from error
    except Exception as error:
        raise BadSound(
            f"not a sound file that can be decoded ({str(error).rstrip('.') or type(error).__name__})"
        ) from error


def _dtype(sound: soundfile.SoundFile) -> str:
    """Choose the type of the samples: 16-bit mono stays unchanged."""
    return "int16" if sound.subtype == "PCM_16" and sound.channels == 1 else "float32"


def _read_on(sound: Stream) -> NDArray[Any]:
    """Read all samples, even beyond the length that the header gives."""
    count = max(BLOCK // sound.channels, 1)
    blocks = [sound.read(count, dtype=_dtype(sound))]
    while len(blocks[-1]) == count:
        blocks.append(sound.read(count, dtype=_dtype(sound)))
    return blocks[0].copy() if len(blocks) == 1 else np.concatenate(blocks)


def check_waveform(samples: NDArray[np.floating[Any]]) -> None:
    """Raise BadSound for samples that are not finite, or far outside [-1, 1]."""
    if not np.isfinite(samples).all():
        raise BadSound(f"not finite ({int((~np.isfinite(samples)).sum())} samples are NaN or infinite)")
    if samples.size and (peak := float(np.abs(samples).max())) > LOUDEST:
        raise BadSound(f"out of range (its peak is {peak:g}, but full scale is 1)")


def _mix(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    check_waveform(samples)
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadSound("not a file")
    if status.st_size == 0:
        raise BadSound("zero bytes")
    if reason := unreadable(path):
        raise BadSound(reason)
