"""Draw random numbers that depend on the utterance and a salt, never on the process or the order of draws.

A draw is a hash (SplitMix64; Steele, Lea & Flood, OOPSLA 2014) of the salt (seed, pass, purpose) and the row number. So
any number of processes, any batch size and any resumed run get the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def seed_from(*salt: int | str) -> int:
    """Return a 63-bit seed made from numbers and words, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, salt)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def uniform(rows: NDArray[np.int64], count: int, *salt: int | str) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1) of shape (len(rows), count); row i depends only on rows[i] and the salt."""
    with np.errstate(over="ignore"):
        start = _mix(np.asarray(rows).astype(np.uint64) + np.uint64(seed_from(*salt)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(start[:, None] + steps[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(rows: NDArray[np.int64], *salt: int | str) -> NDArray[np.int64]:
    """Return the rows in a random order that depends only on row numbers and the salt.

    Its prefixes are nested random samples.
    """
    rows = np.asarray(rows, dtype=np.int64)
    return rows[np.lexsort((rows, uniform(rows, 1, *salt)[:, 0]))]
