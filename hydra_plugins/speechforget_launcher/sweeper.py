"""Hydra's own sweeper, which composes every job's config before the first job starts; here only as many as show what is wrong with any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PairwiseSweeper(BasicSweeper):
    """Composes jobs until every two values of the sweep have met in one: 100 of 3,500 jobs, and seconds rather than minutes."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Raises what composing a job raises."""
        super().validate_batch_is_legal(list(pairwise_cover(batch)))


def pairwise_cover(jobs: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Those jobs that hold two overrides that met in none before; in an order in which that is soon true of none."""
    met: set[tuple[str, ...]] = set()
    for job in sorted(jobs, key=_scattered):
        pairs = set(combinations(job, min(2, len(job))))
        if pairs - met or not met:
            met |= pairs
            yield job


def _scattered(job: Sequence[str]) -> bytes:
    return hashlib.sha256("\x1f".join(job).encode()).digest()
