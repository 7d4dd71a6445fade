"""What an attack on a model sees: one classifier, and the utterances of a request by their roles.

An attack is a class that is built from the numbers of its yaml entry. `attack(subject)` returns its values by name, the
same names for every model. A value that cannot be computed has a reason. An attack changes neither the classifier of
the subject nor a global generator, so it works on `subject.copy()`, and its draws depend on `subject.seed`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.batch import Batch, to_device
from speechforget.data.batches.planted import Planted
from speechforget.data.batches.triggered import Triggered
from speechforget.evaluation.tables import Value
from speechforget.seeding import order

Rows = NDArray[np.int64]

ROLES = ("forget", "retain", "validation", "holdout", "nonmembers", "test")
MOST_BYTES = 2**28  # of waveforms and features that are kept between passes
PREFIX = "evaluation.attacks."  # of names in errors
NO_SPEAKERS = "this corpus does not say who speaks"


class Outputs(NamedTuple):
    """Hold logits (n, classes) and embeddings (n, dimensions) of n utterances, float32."""

    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Attack(Protocol):
    """Compute values in one model. Neither high nor low is good: the aim is the oracle's value."""

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Return the values by name."""
        ...


class Scored(NamedTuple):
    """Hold what is known of the unchanged classifier: the outputs of all rows, and which rows are middle crops (n,)."""

    outputs: Outputs
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """Hold one classifier and the utterances of a request; columns have an entry for every row of the corpus table.

    classifier: in evaluation mode, on its device. stream: yields batches of given rows and size, in order and not
        augmented; a longer utterance is its middle crop.
    labels: class numbers. units: equal for exact copies. speakers: "" where unknown; None where the corpus has none.
    rows: row numbers of each of `ROLES`, ascending, without withdrawn utterances; `nonmembers` are in `holdout`, too.
    classes: names of the outputs. label: the column that the classifier predicts. forgotten: the classes that the
        request removes, none for a request of samples. seed: of all draws, the same for every model of a comparison.
    planted: reads the utterances that carry a key (`dataset.planted`); None if none does.
    triggered: reads utterances with the trigger of a backdoor (`dataset.backdoor`); None if there is none.
    taught: class numbers that models are trained on, where some are wrong on purpose; None if they are the labels.
    scored: of the unchanged classifier, so that its outputs need no further pass; None if they are not known.
    attribute: the value of the attribute that the request removes, "" where unknown; None if it removes none.
    """

    classifier: nn.Module
    stream: Callable[[Rows, int], Iterable[Batch]]
    labels: Rows
    units: Rows
    speakers: NDArray[np.str_] | None
    rows: Mapping[str, Rows]
    classes: tuple[str, ...]
    label: str
    forgotten: tuple[int, ...]
    seed: int
    batch_size: int = 128  # changes rounding only
    planted: Planted | None = None
    triggered: Triggered | None = None
    taught: Rows | None = None
    scored: Scored | None = None
    attribute: NDArray[np.str_] | None = None
    _kept: dict[bytes, list[tuple[Batch, Tensor | None]]] = field(default_factory=dict, repr=False)

    @cached_property
    def device(self) -> torch.device:
        """Return the device of the classifier."""
        return next(self.classifier.parameters()).device

    @cached_property
    def forgotten_speakers(self) -> tuple[str, ...]:
        """Return the speakers of forget who are in no retain utterance."""
        if self.speakers is None:
            return ()
        gone = set(self.speakers[self.rows["forget"]]) - set(self.speakers[self.rows["retain"]]) - {""}
        return tuple(sorted(map(str, gone)))

    @property
    def unheard(self) -> Rows:
        """Return the rows of holdout and test, on which no model was trained."""
        return np.union1d(self.rows["holdout"], self.rows["test"])

    def copy(self) -> nn.Module:
        """Return a copy of the classifier that an attack may change."""
        return copy.deepcopy(self.classifier)

    def drawn(self, rows: Rows, most: int, *salt: int | str) -> Rows:
        """Return at most so many of the rows, drawn by the seed and the salt, ascending."""
        return np.sort(order(rows, self.seed, *salt)[:most])

    def batches(self, rows: Rows, size: int | None = None) -> Iterator[Batch]:
        """Yield batches of these rows on the device, in order. size: `batch_size` by default."""
        for batch in self.stream(rows, size or self.batch_size):
            yield to_device(batch, self.device)

    def outputs(self, rows: Rows, classifier: nn.Module | None = None) -> Outputs:
        """Compute the outputs of some rows by a changed copy; those of the classifier itself are looked up if scored.

        Raises FloatingPointError if outputs are not finite.
        """
        if classifier is None and self.scored is not None and self.scored.known[rows].all():
            return Outputs(*(np.asarray(column[rows]) for column in self.scored.outputs))
        found = []
        with torch.inference_mode():
            for batch, features in self.heard(rows):
                output = (classifier or self.classifier)(*batch.inputs, features=features)
                found.append((output.logits.float().cpu().numpy(), output.embedding.float().cpu().numpy()))
        logits, embedding = map(np.concatenate, zip(*found, strict=True))
        check_finite(logits, embedding)
        return Outputs(logits, embedding)

    def right(self, rows: Rows, classifier: nn.Module | None = None) -> NDArray[np.bool_]:
        """Return whether each of the rows is predicted right, over all classes."""
        return self.outputs(rows, classifier).logits.argmax(1) == self.labels[rows]

    def heard(self, rows: Rows) -> Iterator[tuple[Batch, Tensor | None]]:
        """Yield batches of these rows, with the features of a frontend that no attack can change, else None.

        They are kept for the next pass over the same rows, up to `MOST_BYTES`.
        """
        key = rows.tobytes()
        if key in self._kept:
            yield from self._kept[key]
            return
        frontend = self.classifier.frontend
        fixed = isinstance(frontend, nn.Module) and not frontend.state_dict()
        room, made = MOST_BYTES - sum(map(_bytes, itertools.chain(*self._kept.values()))), []
        for batch in self.batches(rows):
            with torch.no_grad():
                part = (batch, frontend(*batch.inputs) if fixed else None)  # type: ignore[operator]
            yield part
            room -= _bytes(part)
            if room >= 0:
                made.append(part)
        if room >= 0:
            self._kept[key] = made

    def shots(self, count: int, *salt: int | str) -> tuple[Rows, Rows]:
        """Draw `count` utterances of each class of forget; return them and the rest of forget, without their copies.

        Classes with fewer than `count` + 1 distinct utterances are left out; both are empty if none has as many.
        """
        picked: list[int] = []
        rest: list[int] = []
        forget = self.rows["forget"]
        for number in np.unique(self.labels[forget]):
            rows = order(forget[self.labels[forget] == number], self.seed, *salt)
            _, first = np.unique(self.units[rows], return_index=True)
            if len(first) <= count:
                continue
            chosen = rows[np.sort(first)[:count]]
            picked.extend(chosen)
            rest.extend(rows[~np.isin(self.units[rows], self.units[chosen])])
        return np.sort(np.array(picked, dtype=np.int64)), np.sort(np.array(rest, dtype=np.int64))


def check_finite(*outputs: NDArray[np.float32]) -> None:
    """Raise FloatingPointError if some outputs (utterances, ...) are not finite."""
    wrong = int((~np.all([np.isfinite(each).all(axis=1) for each in outputs], axis=0)).sum())
    if wrong:
        raise FloatingPointError(f"its outputs for {wrong} of {len(outputs[0])} utterances are not finite")


def _bytes(part: tuple[Batch, Tensor | None]) -> int:
    batch, features = part
    return sum(tensor.nbytes for tensor in (*batch.inputs, *([] if features is None else [features])))


def too_few(count: int) -> str:
    """Return the reason where no class of the request has utterances beside `count` of them."""
    return f"no class of the request has more than {count} distinct utterances"
