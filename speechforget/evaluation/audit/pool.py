"""The pool of an audit, one number for each unit and model: attack scores, halves, and the units that are hard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.audit.attack_scores import attack_scores
from speechforget.evaluation.audit.tables import Floats, Integers, PairScores

Mask = NDArray[np.bool_]
KINDS = ("original", "unlearned", "oracle")


@dataclass(frozen=True)
class Pool:
    """Hold u units of inference under the models of an audit.

    half: (J, u). scores: kind -> attack score -> (M, u); M = 2 J rows for originals and unlearned models, row 2 j + h
    is model [j, h]; K rows for oracles. features: kind -> (M, u, f), the input of the informed attacker. everyone,
    hard: (J, u), the units that are attacked in each pair. speakers: whether a unit holds several utterances.
    """

    half: Integers
    scores: dict[str, dict[str, Floats]]
    features: dict[str, Floats]
    everyone: Mask
    hard: Mask
    speakers: bool

    @property
    def pairs(self) -> int:
        """Count the pairs, J."""
        return len(self.half)

    @property
    def units(self) -> int:
        """Count the units of the pool."""
        return self.half.shape[1]

    def own(self) -> Integers:
        """Return the rows of originals or unlearned models in the places of the pairs, (J, 2)."""
        return np.arange(2 * self.pairs).reshape(self.pairs, 2)

    def margins(self, kind: str) -> Floats:
        """Return margins (M, u) in nats."""
        return self.scores[kind]["margin"]


def pool(scores: PairScores) -> Pool:
    """Make the pool of an audit. A unit of several utterances, a speaker, has the mean of their scores."""
    first, of_unit = np.unique(scores.unit, return_index=True, return_inverse=True)[1:]
    half = scores.half[:, first]
    found: dict[str, dict[str, Floats]] = {}
    features: dict[str, Floats] = {}
    for kind in KINDS:
        logits = getattr(scores, kind)
        logits = logits.reshape(-1, *logits.shape[-2:])
        values = attack_scores(logits, scores.label)
        inputs = _features(values, scores.label)
        found[kind] = {name: _unit_means(each, of_unit) for name, each in values.items()}
        features[kind] = np.stack([_unit_means(each, of_unit) for each in inputs], axis=-1)
    everyone = np.ones(half.shape, dtype=bool)
    hard = hardest(found["original"]["margin"], half)
    return Pool(half, found, features, everyone, hard, len(first) < len(of_unit))


def _unit_means(values: Floats, of_unit: Integers) -> Floats:
    """Average the utterances (M, n) of each unit, (M, u)."""
    order, sizes = np.argsort(of_unit, kind="stable"), np.bincount(of_unit)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    means: Floats = np.add.reduceat(values[:, order], starts, axis=1) / sizes
    return means


def _features(values: dict[str, Floats], label: Integers) -> list[Floats]:
    """List what the informed attacker sees of an utterance: scores, the margin less its class's mean, and squares."""
    known = values["margin"]
    classes = np.unique(label, return_inverse=True)[1]
    centred = known - _unit_means(known, classes)[:, classes]
    return [known, values["entropy"], values["confidence"], centred, known**2, centred**2]


def split(margins: Floats, index: Integers, half: Integers) -> tuple[Floats, Floats]:
    """Take each unit's margin under the model of each pair that forgot it, and under the one that never heard it.

    margins: (M, u). index: (J, 2), the rows in the places of the pairs. half: (J, u). Returns (J, u) twice.
    """
    models = margins[index]
    forgotten = np.take_along_axis(models, half[:, None], axis=1)[:, 0]
    unheard = np.take_along_axis(models, 1 - half[:, None], axis=1)[:, 0]
    return forgotten, unheard


def hardest(originals: Floats, half: Integers) -> Mask:
    """Select for each pair the third of the units that originals of the other pairs memorise most; return (J, u).

    Explanation:
        values: hard_<figure>
        meaning: The same figure on the hardest third of the units: those whose margin depends most on whether the
            original heard them. An attack on all units may see nothing because most of them are easy for any model.
        formula: units with the largest mean margin when heard - mean margin when not, in the originals of all other
            pairs; then as the figure.
        unit: as the figure.
        aim: as the figure.
        fooled by: few units in a third; for originals the units were chosen by models of the same kind, so they have no
            p-value.
        source: Feldman & Zhang, NeurIPS 2020 (memorisation); Zhao et al., RUM, NeurIPS 2024 (thirds).
    """
    index = np.arange(len(originals)).reshape(-1, 2)
    forgotten, unheard = split(originals, index, half)
    each = forgotten - unheard
    others = each.sum(axis=0) - each
    ranks = others.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return ranks >= each.shape[1] - -(-each.shape[1] // 3)
