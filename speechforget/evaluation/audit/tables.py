"""The input of an audit: scores of a pool of utterances under complementary pairs of models and under oracles.

Pair j splits the pool at random into two halves. Two originals know one half each, and both are made to forget it.
Oracles know neither half. So every utterance was forgotten by one model of each pair, and was never heard by the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechforget.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# FLOOR: pairs and oracles below which no verdict is given. FEWEST: below which there is no audit.
FLOOR, FEWEST = 4, 2
AGAIN = "run the same command again"


@dataclass(frozen=True)
class PairScores:
    """Hold J pairs of models and K oracles on a pool of n utterances, and on m retain utterances.

    half: (J, n) of 0 and 1, the half of pair j that holds an utterance. label: (n,). unit: (n,), the unit of inference
    of an utterance: itself, or its speaker. original, unlearned: logits (J, 2, n, C); [j, h] is the model that knew
    half h of pair j. oracle: logits (K, n, C). retain_label: (m,). retain_original, retain_unlearned: margins
    (J, 2, m), in nats. retain_oracle: (K, m). accuracy_test: `original` and `unlearned` (J, 2), `oracle` (K,), in
    [0, 1]; all nan without a test subset.

    Raises UserError for shapes that do not agree, fewer than 2 pairs or oracles, an empty half, a unit in both halves
    of a pair, labels outside the classes, or numbers that are not finite.
    """

    half: Integers
    label: Integers
    unit: Integers
    original: NDArray[np.floating]
    unlearned: NDArray[np.floating]
    oracle: NDArray[np.floating]
    retain_label: Integers
    retain_original: NDArray[np.floating]
    retain_unlearned: NDArray[np.floating]
    retain_oracle: NDArray[np.floating]
    accuracy_test: Mapping[str, NDArray[np.floating]]

    def __post_init__(self) -> None:
        """Check shapes, halves and numbers."""
        if self.half.ndim != 2 or self.oracle.ndim != 3:
            raise UserError(f"The scores of the audit have wrong shapes: {AGAIN}.")
        if self.pairs < FEWEST:
            raise UserError(f"An audit needs {FEWEST} pairs or more, not {self.pairs}: raise evaluation.pairs.")
        if self.oracles < FEWEST:
            raise UserError(f"An audit needs {FEWEST} oracles or more, not {self.oracles}: raise evaluation.oracles.")
        self._check_shapes()
        self._check_halves()
        if self.classes < 2:
            raise UserError("An audit needs 2 classes or more: choose a corpus with more labels.")
        if self.label.min() < 0 or self.label.max() >= self.classes:
            raise UserError(f"A label of the pool is not one of the {self.classes} outputs: {AGAIN}.")
        for name, values in self._numbers().items():
            if not np.isfinite(values).all():
                raise UserError(
                    f"The {name} of an audit are not finite, so a model is destroyed: lower its learning rate."
                )

    @property
    def pairs(self) -> int:
        """Count the pairs, J."""
        return len(self.half)

    @property
    def oracles(self) -> int:
        """Count the oracles, K."""
        return len(self.oracle)

    @property
    def classes(self) -> int:
        """Count the outputs of a model, C."""
        return self.oracle.shape[2]

    def _numbers(self) -> dict[str, NDArray[np.floating]]:
        """Name all arrays that must be finite."""
        kinds = ("original", "unlearned", "oracle")
        found = {f"logits of {kind} models": getattr(self, kind) for kind in kinds}
        found |= {f"retain margins of {kind} models": getattr(self, f"retain_{kind}") for kind in kinds}
        tested = {f"test accuracies of {kind} models": self.accuracy_test[kind] for kind in kinds}
        return found if all(np.isnan(each).all() for each in tested.values()) else found | tested

    def _check_shapes(self) -> None:
        pairs, size = self.half.shape
        retain, oracles = len(self.retain_label), self.oracles
        if missing := {"original", "unlearned", "oracle"} - set(self.accuracy_test):
            raise UserError(f"An audit has no test accuracy of its {min(missing)} models: {AGAIN}.")
        asked = {
            "label": (self.label, (size,)),
            "unit": (self.unit, (size,)),
            "original": (self.original, (pairs, 2, size, self.classes)),
            "unlearned": (self.unlearned, (pairs, 2, size, self.classes)),
            "oracle": (self.oracle, (oracles, size, self.classes)),
            "retain_original": (self.retain_original, (pairs, 2, retain)),
            "retain_unlearned": (self.retain_unlearned, (pairs, 2, retain)),
            "retain_oracle": (self.retain_oracle, (oracles, retain)),
            "accuracy_test of originals": (self.accuracy_test["original"], (pairs, 2)),
            "accuracy_test of unlearned models": (self.accuracy_test["unlearned"], (pairs, 2)),
            "accuracy_test of oracles": (self.accuracy_test["oracle"], (oracles,)),
        }
        for name, (values, shape) in asked.items():
            if values.shape != shape:
                raise UserError(
                    f"'{name}' of an audit has the shape {values.shape} instead of {shape}, so its models were not "
                    f"scored on the same utterances: {AGAIN}."
                )

    def _check_halves(self) -> None:
        if not {0, 1} >= set(np.unique(self.half).tolist()) or not (self.half.min(1) < self.half.max(1)).all():
            raise UserError("Each pair of an audit needs two halves that hold utterances: make the request larger.")
        first = np.unique(self.unit, return_index=True)[1]
        of_unit = np.unique(self.unit, return_inverse=True)[1]
        if (self.half != self.half[:, first][:, of_unit]).any():
            raise UserError("A speaker is in both halves of a pair, so its halves are not comparable: split by unit.")
