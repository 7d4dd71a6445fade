"""The input of metrics: score tables of original, oracles and unlearned model, with rows aligned by utterance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

ROLES = ("forget", "retain", "validation", "holdout", "test")
MODELS = ("original", "oracle", "unlearned")
WRONG_LETTERS, FRAMES = 2, 4  # columns of `Scores.errors`
# Logits read at a time: a table may exceed the memory, and this many fit a processor's cache.
CHUNK = 2**18


class Value(NamedTuple):
    """Hold one number, its interval (nan if it has none), and the number of utterances or other units it is based on.

    reason: why the number is missing; empty for a number. named: what it is about, such as the worst speakers.
    """

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]
    reason: str = ""
    named: tuple[str, ...] = ()


def missing(reason: str) -> Value:
    """Return a value without a number, and the reason for that."""
    return Value(float("nan"), float("nan"), float("nan"), 0, reason)


NOTHING = missing("there are no utterances of this kind")


class NoOracle(Exception):  # noqa: N818
    """Signal that a metric needs the oracle of a comparison without one; `compare` then gives the metric no number."""


MetricFunction = TypeVar("MetricFunction", bound=Callable[..., dict[str, Value]])


def beside_all(metric: MetricFunction) -> MetricFunction:
    """Mark a metric that treats all oracles alike, so that their order changes no number of it."""
    metric.beside_all = True  # type: ignore[attr-defined]
    return metric


@dataclass(frozen=True)
class Scores:
    """Hold the score table of one model, one row per utterance.

    role: (n,) str from `ROLES`. nonmember: (n,) bool, true for the holdout utterances that match the request.
    label: (n,) int64 class indices. logits: (n, K) floating, may be a memory map, so metrics read it by `chunks`.
    loss: (n,) float64 cross-entropy in nats. embedding: (n, d). seconds: wall time of making the model, nan if unknown.
    heard, errors: of texts, see `stages.transcript_columns`; None for classes.
    memo: numbers of this table that several metrics need, or one metric for several oracles.
    """

    role: NDArray[np.str_]
    nonmember: Mask
    label: NDArray[np.int64]
    logits: NDArray[np.floating]
    loss: NDArray[np.float64]
    embedding: NDArray[np.floating]
    seconds: float
    heard: NDArray[np.int16] | None = None
    errors: NDArray[np.int64] | None = None
    memo: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

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

    @property
    def right(self) -> Mask:
        """Return which answers are right; a transcript is right if each letter of it is."""
        found: Mask = self.predicted == self.label if self.errors is None else self.errors[:, WRONG_LETTERS] == 0
        return found

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Cache `predictions` of all rows for all metrics."""
        return predictions(self.logits)


@dataclass(frozen=True)
class Tables:
    """Hold the score tables of one comparison, with rows aligned over models.

    oracles: the first one is the oracle of this seed; empty without an oracle. forgotten: indices of the classes that
    the request removes, empty for a sample request. seed: of the random draws of attacks. speaker: (n,) str, "" where
    unknown; None if the corpus names no speakers. classes: the names of the K outputs, empty if they have none.
    confused: indices of the two classes whose labels were exchanged in some training utterances, empty if none were.
    untrained: logits (models, forget utterances, K) of models of random weights; None if no metric asks for them.
    taught: (n,) int64 class indices that models were trained on, which may be wrong; None if they are the labels.
    groups: columns of the corpus by name, (n,) str each, "" where unknown, whose values are compared.
    attribute: (n,) str, the value of the attribute that the request removes, "" where unknown; None if it removes none.
    """

    original: Scores
    oracles: tuple[Scores, ...]
    unlearned: Scores
    forgotten: tuple[int, ...]
    seed: int
    speaker: NDArray[np.str_] | None = None
    classes: tuple[str, ...] = ()
    confused: tuple[int, ...] = ()
    untrained: NDArray[np.floating] | None = None
    taught: NDArray[np.int64] | None = None
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    attribute: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        rows, outputs = self.original.logits.shape
        if self.speaker is not None and len(self.speaker) != rows:
            raise ValueError("the column of speakers differs in length from the score tables")
        if self.classes and len(self.classes) != outputs:
            raise ValueError("there are not as many names of classes as outputs")
        if self.taught is not None and len(self.taught) != rows:
            raise ValueError("the column of taught labels differs in length from the score tables")
        if any(len(column) != rows for column in self.groups.values()):
            raise ValueError("a column of groups differs in length from the score tables")
        if self.attribute is not None and len(self.attribute) != rows:
            raise ValueError("the column of the attribute differs in length from the score tables")
        asked = (int((self.original.role == "forget").sum()), outputs)
        if self.untrained is not None and self.untrained.shape[1:] != asked:
            raise ValueError("models of random weights were not scored on forget")
        for other in (*self.oracles, self.unlearned):
            if not all(
                np.array_equal(getattr(self.original, name), getattr(other, name))
                for name in ("role", "nonmember", "label")
            ):
                raise ValueError("the score tables of a comparison are not of the same utterances")

    @property
    def oracle(self) -> Scores:
        """Return the oracle of this seed. Raises NoOracle if there is none."""
        if not self.oracles:
            raise NoOracle
        return self.oracles[0]

    def of(self, model: str) -> Scores:
        """Return the scores of `original`, `oracle` or `unlearned`."""
        if model not in MODELS:
            raise ValueError(f"unknown model '{model}'")
        scores: Scores = getattr(self, model)
        return scores

    def subsets(self) -> dict[str, Mask]:
        """Map the name of each subset to a mask (n,) bool.

        `validation`, `holdout` and `test` hold the remaining classes. `validation_forgotten` and `test_forgotten` hold
        the classes that a class request removes, and are empty for a sample request. `nonmembers` holds the holdout
        utterances that match the request.
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
    """Yield consecutive slices of rows, each of about `CHUNK` numbers."""
    step = max(1, CHUNK // max(columns, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def predictions(logits: NDArray[np.floating], without: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return the class with the largest logit, except those in `without`, (n,) int64.

    A row with a nan logit gets -1, which equals no label.
    """
    found = np.empty(len(logits), dtype=np.int64)
    for rows in chunks(*logits.shape):
        chunk = np.array(logits[rows])
        chunk[:, list(without)] = -np.inf
        found[rows] = np.where(np.isnan(chunk).any(axis=1), -1, chunk.argmax(axis=1))
    return found
