"""What metrics look at: the score tables of original, oracles and unlearned, row by row about the same utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

ROLES = ("forget", "retain", "validation", "holdout", "test")
MODELS = ("original", "oracle", "unlearned")
CHUNK = (
    2**18
)  # logits that are looked at at a time: a table may be larger than the memory, and this many fit a processor's cache


class Value(NamedTuple):
    """One number with its interval (nan where there is none) and the number of utterances, or whatever else, that it rests on.

    reason: why there is no number, where a reader cannot guess it.
    """

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]
    reason: str = ""


NOTHING = Value(float("nan"), float("nan"), float("nan"), 0)


class NoOracle(Exception):  # noqa: N818
    """A metric asked for the oracle of a comparison that has none; `compare` gives it no number."""


@dataclass(frozen=True)
class Scores:
    """One model's score table, one row per utterance.

    role: (n,) str out of `ROLES`. nonmember: (n,) bool, true for the holdout utterances that match the request.
    label: (n,) int64 class numbers. logits: (n, K) floating, perhaps a memory map: metrics read it by `chunks`. loss: (n,) float64 cross-entropy
    in nats. embedding: (n, d). seconds: wall time that making the model took, nan where that is not known.
    """

    role: NDArray[np.str_]
    nonmember: Mask
    label: NDArray[np.int64]
    logits: NDArray[np.floating]
    loss: NDArray[np.float64]
    embedding: NDArray[np.floating]
    seconds: float

    def __post_init__(self) -> None:
        lengths = {
            len(column) for column in (self.role, self.nonmember, self.label, self.logits, self.loss, self.embedding)
        }
        if len(lengths) != 1:
            raise ValueError(f"the columns of a score table differ in length: {sorted(lengths)}")
        if unknown := set(np.unique(self.role)) - set(ROLES):
            raise ValueError(f"unknown roles in a score table: {sorted(unknown)}")
        if np.any(self.nonmember & (self.role != "holdout")):
            raise ValueError("non-members must be holdout utterances")

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """`predictions` of all rows, looked up once for all metrics."""
        return predictions(self.logits)


@dataclass(frozen=True)
class Tables:
    """The score tables of one comparison, with rows aligned over models.

    oracles: the first is the oracle of this seed; empty where there is none. forgotten: class numbers that the request removes whole, empty for
    samples. seed: of the draws that attacks make.
    """

    original: Scores
    oracles: tuple[Scores, ...]
    unlearned: Scores
    forgotten: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        for other in (*self.oracles, self.unlearned):
            if not all(
                np.array_equal(getattr(self.original, name), getattr(other, name))
                for name in ("role", "nonmember", "label")
            ):
                raise ValueError("the score tables of a comparison are not about the same utterances")

    @property
    def oracle(self) -> Scores:
        """The oracle of this seed. Raises NoOracle where there is none."""
        if not self.oracles:
            raise NoOracle
        return self.oracles[0]

    def of(self, model: str) -> Scores:
        """The scores of `original`, `oracle` or `unlearned`."""
        if model not in MODELS:
            raise ValueError(f"unknown model '{model}'")
        scores: Scores = getattr(self, model)
        return scores

    def subsets(self) -> dict[str, Mask]:
        """Name -> (n,) bool.

        `validation`, `holdout` and `test` hold the remaining classes; `validation_forgotten` and `test_forgotten` the classes that a class
        request removes, empty for samples; `nonmembers` the holdout utterances that match the request.
        """
        role = self.original.role
        forgotten = np.isin(self.original.label, self.forgotten)
        return {
            "forget": role == "forget",
            "retain": role == "retain",
            "validation": (role == "validation") & ~forgotten,
            "validation_forgotten": (role == "validation") & forgotten,
            "holdout": (role == "holdout") & ~forgotten,
            "nonmembers": self.original.nonmember,
            "test": (role == "test") & ~forgotten,
            "test_forgotten": (role == "test") & forgotten,
        }


Metric = Callable[[Tables, str], dict[str, Value]]


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive slices of so many rows that each holds about `CHUNK` numbers."""
    step = max(1, CHUNK // max(columns, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def predictions(logits: NDArray[np.floating], without: Sequence[int] = ()) -> NDArray[np.int64]:
    """The class with the largest logit among all but `without`, (n,) int64; -1, which no label equals, where a logit is not a number."""
    found = np.empty(len(logits), dtype=np.int64)
    for rows in chunks(*logits.shape):
        chunk = np.array(logits[rows])
        chunk[:, list(without)] = -np.inf
        found[rows] = np.where(np.isnan(chunk).any(axis=1), -1, chunk.argmax(axis=1))
    return found
