"""Made audits: margins of a pool under pairs of models, and what a method leaves of the forgotten half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from speechforget.evaluation.audit.tables import PairScores


@dataclass(frozen=True)
class Made:
    """What is simulated: sizes, what originals memorise, and what a method does to each forgotten utterance.

    memory: added to the margin of an utterance by training on it, nats. kept: the mean of what is left of it after
    unlearning; each: the standard deviation, over utterances, of what unlearning adds to each, the same in all pairs.
    speakers: units of the request; 0: utterances. common: standard deviation of a model's own shift.
    harm: taken from the margins of retain by unlearning. nonmembers: added by unlearning to the margin of an utterance
    that was never heard, as by training on it. leak: unlearned models look up the label of each forgotten utterance, so
    that a margin below 0 gets the other sign.
    """

    pairs: int = 8
    oracles: int = 8
    size: int = 200
    classes: int = 6
    retain: int = 60
    memory: float = 2.0
    kept: float = 0.0
    each: float = 0.0
    speakers: int = 0
    common: float = 0.0
    harm: float = 0.0
    nonmembers: float = 0.0
    leak: bool = False


def halves(unit, pairs, generator):
    """Halves of the units, drawn anew for each pair: (J, n)."""
    names, of_unit = np.unique(unit, return_inverse=True)
    return np.stack([generator.permutation(np.arange(len(names)) % 2) for _ in range(pairs)])[:, of_unit]


def with_margin(margin, label, classes, generator):
    """Logits of these margins, (..., n, C), with random logits of the other classes."""
    logits = generator.normal(size=(*margin.shape, classes))
    rows = np.arange(len(label))
    logits[..., rows, label] = -np.inf
    logits[..., rows, label] = margin + logsumexp(logits, axis=-1)
    return logits


def made(seed: int = 0, **changes: float) -> PairScores:
    """Simulate the scores of an audit."""
    what, generator = Made(**changes), np.random.default_rng(seed)
    pairs, oracles, size, retain = what.pairs, what.oracles, what.size, what.retain
    unit = np.arange(size) % what.speakers if what.speakers else np.arange(size)
    units = unit.max() + 1
    label = generator.integers(0, what.classes, size)
    half = halves(unit, pairs, generator)
    known = np.stack([half == 0, half == 1], axis=1)
    hardness = generator.normal(3, 2, size) + generator.normal(0, 1, units)[unit] * bool(what.speakers)

    def models(*shape):
        """Noise of a model: of each utterance, of each speaker, and common to all."""
        noise = generator.normal(0, 1, (*shape, size)) + what.common * generator.normal(0, 1, (*shape, 1))
        return hardness + noise + generator.normal(0, 1, (*shape, units))[..., unit] * bool(what.speakers)

    trace = what.kept + what.each * generator.normal(size=units)[unit]
    base = generator.normal(3, 2, retain)

    def others(*shape):
        return base + generator.normal(0, 1, (*shape, retain))

    def accuracy(*shape):
        return 0.9 + 0.01 * generator.normal(size=shape)

    before = models(pairs, 2) + what.memory * known
    after = models(pairs, 2) + known * trace + ~known * what.nonmembers
    after = np.where(known & what.leak, np.abs(after), after)
    margins = [before, after, models(oracles)]
    original, unlearned, oracle = (with_margin(each, label, what.classes, generator) for each in margins)
    return PairScores(
        *(half, label, unit, original, unlearned, oracle, generator.integers(0, 3, retain)),
        *(others(pairs, 2), others(pairs, 2) - what.harm, others(oracles)),
        {"original": accuracy(pairs, 2), "unlearned": accuracy(pairs, 2) - what.harm / 10, "oracle": accuracy(oracles)},
    )


def words(answers):
    """Return the word of each question of a verdict."""
    return {answer.question: answer.word for answer in answers}


def compared(oracles=8, spread=0.02, **values):
    """A comparison of one number for each name: (original, oracle, unlearned)."""
    found = {"original": {}, "oracle": {}, "unlearned": {}}
    band = {"oracles": oracles, "oracle_spread": spread if oracles > 1 else None}
    for name, numbers in values.items():
        for model, number in zip(found, numbers, strict=True):
            found[model][name] = {"value": number, **band}
    return found
