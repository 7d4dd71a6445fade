"""Sources of noise beside a speaker, by simple formulas: each sounds alike in all recordings that it is in."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from speechforget.seeding import uniform

SOURCES = ("white", "hum", "babble", "clicks")
HUM_HZ, HARMONICS = 50, 12
CLICKS_HZ, RING = 12, 48  # clicks per second; samples that each one rings
Samples = NDArray[np.float64]


def noise(source: str, count: int, rate: int, draw: int, babble: Samples | None) -> Samples:
    """Return (count,) samples of a source at `rate` Hz, with a mean square of 1.

    draw: the seed of what differs between recordings: the samples of white noise, the phase of the hum, the moments and
        strengths of the clicks, and where in the babble the recording begins.
    babble: many voices at once (samples,), repeated where they end; needed for the source of this name alone.
    """
    if source == "white":
        samples = _numbers(draw, count, "white") * 2 - 1
    elif source == "hum":
        samples = _repeated(_hum(rate), count, draw)
    elif source == "clicks":
        samples = _clicks(count, rate, draw)
    elif babble is None:
        raise ValueError(f"the source {source} needs voices")
    else:
        samples = _repeated(babble, count, draw)
    return samples / np.sqrt(np.mean(np.square(samples)))


def _numbers(draw: int, count: int, purpose: str) -> Samples:
    return uniform(np.array([draw]), count, "espeak noise", purpose)[0]


def _repeated(samples: Samples, count: int, draw: int) -> Samples:
    """Cut `count` samples out of a sound that begins again where it ends, from a drawn beginning."""
    first = int(_numbers(draw, 1, "beginning")[0] * len(samples))
    return samples[(first + np.arange(count)) % len(samples)]


@functools.cache
def _hum(rate: int) -> Samples:
    """Return one second of mains hum: HUM_HZ and its harmonics below half the rate, the k-th with amplitude 1/k.

    The sines are rounded, so that they are the same on every machine.
    """
    audible = [k for k in range(1, HARMONICS + 1) if 2 * k * HUM_HZ < rate]
    sines = [
        sum(math.sin(2 * math.pi * (step * k * HUM_HZ % rate) / rate) / k for k in audible) for step in range(rate)
    ]
    return np.array([round(sine, 9) for sine in sines])


def _clicks(count: int, rate: int, draw: int) -> Samples:
    """Return CLICKS_HZ clicks a second on average, one at a drawn moment of each equal part.

    Each has a drawn strength, and rings down with alternating signs.
    """
    width = min(rate // CLICKS_HZ, count)
    parts = count // width
    moments, strengths = _numbers(draw, 2 * parts, "clicks").reshape(2, parts)
    samples = np.zeros(count + RING)
    starts = np.arange(parts) * width + (moments * width).astype(np.int64)
    for step in range(RING):
        samples[starts + step] += (0.5 + strengths) * (-0.85) ** step
    return samples[:count]
