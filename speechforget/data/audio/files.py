"""One sound file to one channel of samples, and what can be wrong with it."""

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
from speechforget.data.audio.headers import cut, mended, shortfall
from speechforget.errors import UserError

SHORTEST = 0.01  # seconds; less than one analysis window is no speech
LOUDEST = 2.0  # of full scale; lossy codecs overshoot 1 a little, integers stored as floats by a great deal
BLOCK = 1 << 20  # samples of one read, of all channels together
PART = 64  # samples that are compared with those of the whole
LOWEST_RATE = 100  # Hz; resampling from less, as damaged headers name it, would fill the memory
UNKNOWN_FRAMES = 1 << 62  # libsndfile's answer, about, where the header does not say how many there are
# Where a seek lands on the very sample. It does not in codecs whose decoder carries state on (Vorbis, Opus, MP3, ADPCM): these are decoded whole.
EXACT_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
EXACT_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"})

Whole = Callable[[Path, int], NDArray[np.int16]]  # what `read_pcm` does


class BadSound(Exception):  # noqa: N818  (the file is bad, the program is not)
    """A file that cannot be used; the text is the reason, without the name of the file."""


def read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (samples,) float32 in [-1, 1], the mean of all channels, and their rate in Hz. Raises UserError naming a bad file."""
    try:
        samples, rate = read_mono(path)
    except BadSound as bad:
        raise UserError(f"{path} cannot be used: {bad}.") from None
    return _floats(samples), rate


def resample(samples: NDArray[np.float32], rate: float, target: int) -> NDArray[np.float32]:
    """Samples (samples,) at `rate` Hz as samples at `target` Hz (soxr, high quality; the same samples when the rates agree)."""
    return samples if rate == target else soxr.resample(samples, rate, target, quality="HQ")


def read_pcm(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """Samples (samples,) int16 at `sample_rate` Hz; 16-bit mono files of that rate come through unchanged. Raises BadSound."""
    samples, rate = read_mono(path)
    if samples.dtype == np.int16 and rate == sample_rate:
        return samples
    with bad_sound_for_failures():
        return to_pcm(resample(_floats(samples), rate, sample_rate))


def read_window(path: Path, start: int, count: int, sample_rate: int, whole: Whole = read_pcm) -> NDArray[np.int16]:
    """Samples start to start + count of what `read_pcm` gives; other samples are decoded only where a seek would not be exact.

    whole: what reads a whole file, say one that remembers the last ones. Raises UserError naming a file that cannot be read.
    """
    try:
        with bad_sound_for_failures():
            found = _read_part(path, start, count, sample_rate)
            if found is None:
                found = whole(path, sample_rate)[start : start + count]
    except BadSound as bad:
        raise UserError(f"{path} cannot be read any more ({bad}): restore it, and run again.") from None
    if len(found) < count:
        raise UserError(f"{path} became shorter since it was indexed: restore it, and run again.")
    return found


def _read_part(path: Path, start: int, count: int, sample_rate: int) -> NDArray[np.int16] | None:
    """The same where a seek is exact, the rate is the file's and nothing goes wrong; else None."""
    try:
        with Stream(path) as sound:
            if not _is_exact(sound) or sound.samplerate != sample_rate or start + count > sound.frames:
                return None
            sound.seek(start)
            samples = sound.read(count, dtype=_dtype(sound))
    except soundfile.LibsndfileError:  # it may be read from its beginning all the same, or says then what is wrong
        return None
    return samples if samples.dtype == np.int16 else to_pcm(_mix(samples))


def _is_exact(sound: soundfile.SoundFile) -> bool:
    """Whether its samples lie in the file one by one, or in frames that say where they belong."""
    return sound.format in EXACT_FORMATS and sound.subtype in EXACT_SUBTYPES and sound.frames < UNKNOWN_FRAMES


def _check_seek(sound: soundfile.SoundFile, samples: NDArray[Any]) -> None:
    """Raises BadSound where a part of the file is not what the whole has there, as a damaged header may make it."""
    place = 2 * len(samples) // 3
    with suppress(soundfile.LibsndfileError):  # where it cannot be sought in, no part of it is ever read
        sound.seek(place)
        part = sound.read(PART, dtype=samples.dtype.name)
        if part.tobytes() != samples[place : place + PART].tobytes():
            raise BadSound(f"damaged (read from sample {place} on, it sounds otherwise than as a whole)")


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
    """Samples (samples,) as int16 where the file is 16-bit mono, else float32, and the rate in Hz. Raises BadSound, whatever goes wrong."""
    with bad_sound_for_failures():
        _check_file(path)
        with Stream(mended(path)) as sound:
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
        if missing := shortfall(log, len(samples)) or cut(path, len(samples)):
            raise BadSound(f"truncated ({missing})")
        if len(samples) < promised < UNKNOWN_FRAMES and not guessed:
            raise BadSound(f"truncated (the header promises {promised} samples, {len(samples)} are there)")
        return (samples if samples.dtype == np.int16 else _mix(samples)), rate


class Stream(soundfile.SoundFile):
    """A sound file that is read on and on: soundfile seeks after each read, which some formats cannot do, and others not exactly."""

    def seekable(self) -> bool:
        """Whether a read may be followed by a seek: never."""
        return False


@contextmanager
def bad_sound_for_failures() -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into a BadSound with its words: no file may stop a run without being named."""
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
    """Of its samples: 16-bit mono comes through unchanged."""
    return "int16" if sound.subtype == "PCM_16" and sound.channels == 1 else "float32"


def _read_on(sound: Stream) -> NDArray[Any]:
    """All samples to the end, wherever the header puts it."""
    count = max(BLOCK // sound.channels, 1)
    blocks = [sound.read(count, dtype=_dtype(sound))]
    while len(blocks[-1]) == count:
        blocks.append(sound.read(count, dtype=_dtype(sound)))
    return blocks[0].copy() if len(blocks) == 1 else np.concatenate(blocks)


def check_waveform(samples: NDArray[np.floating[Any]]) -> None:
    """Raises BadSound for samples that are not finite, or far from [-1, 1]."""
    if not np.isfinite(samples).all():
        raise BadSound(f"not finite ({int((~np.isfinite(samples)).sum())} samples are NaN or infinite)")
    if samples.size and (peak := float(np.abs(samples).max())) > LOUDEST:
        raise BadSound(f"out of range (its peak is {peak:g}, full scale is 1)")


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
