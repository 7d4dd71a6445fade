"""Statistics of unlearned models against oracles, with whole models exchanged for their null.

If unlearned models are oracles, all 2 J + K models are exchangeable. A permutation puts any model in any place; its
margins are then read as those of the model whose place it takes. So the test is exact, whatever depends on whatever
inside a model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from speechforget.evaluation.audit.distances import energy
from speechforget.evaluation.audit.per_utterance import told_from_oracles
from speechforget.evaluation.audit.signs import Interval
from speechforget.evaluation.audit.tables import Floats, Integers

PERMUTATIONS, SPLITS = 199, 100
# Models of pairs (J, 2, ...) and oracles (K, ...) -> statistics.
Statistics = Callable[[Floats, Floats], dict[str, float]]


def on_pool(half: Integers) -> Statistics:
    """Compare margins of forgotten recordings in unlearned models (J, 2, u) and in oracles (K, u). half: (J, u).

    Explanation:
        values: told_from_oracles_auc, energy_distance, shift_from_oracles
        meaning: Whether unlearned models can be told from oracles by the recordings that they forgot. The AUC decides
            for each recording whether its margin comes from an unlearned model or from an oracle; the energy distance
            compares the two distributions of its margins; the shift says on which side the mean lies.
        formula: AUC of U-LiRA's ratio with oracles in the place of models that never heard the unit, one of each kind
            left out; mean over units of 2 E|a - b| - E|a - a'| - E|b - b'|; mean margin of unlearned models - that of
            oracles.
        unit: AUC in [0, 1], nats, nats; 95 % intervals; p-values by permutation of whole models.
        aim: 0.5, 0 and 0; an estimate of the energy distance may be below 0.
        fooled by: a shift that all models of a method share although nothing is left in them: told from an oracle is
            not the same as remembered.
        source: RULI, USENIX Security 2025, arXiv 2506.13009; Szekely & Rizzo 2013.
    """

    def statistics(models: Floats, oracles: Floats) -> dict[str, float]:
        """Compute `told_from_oracles_auc`, `energy_distance` and `shift_from_oracles`, of forgotten units.

        energy_distance: mean over units of the unbiased energy distance, nats. shift_from_oracles: mean margin less
        that of the oracles, in nats.
        """
        sides = half[: len(models)]
        forgotten = np.take_along_axis(models, sides[:, None], axis=1)[:, 0]
        return {
            "told_from_oracles_auc": float(told_from_oracles(forgotten, oracles, sides).mean()),
            "energy_distance": float(energy(forgotten, oracles).mean()),
            "shift_from_oracles": float(forgotten.mean() - oracles.mean()),
        }

    return statistics


def on_retain(label: Integers) -> Statistics:
    """Compare margins of retain in unlearned models (J, 2, m) and in oracles (K, m). label: (m,).

    Explanation:
        values: retain_shift, retain_shift_worst_class, retain_exposed, retain_harmed
        meaning: What happened to recordings that were not to be forgotten. The shift is how much surer models are of
            them than oracles, for all and for the class that lost most. exposed and harmed are the shares of recordings
            that are much surer or less sure than oracles show: forgetting some can expose others (the onion effect).
        formula: mean margin of unlearned models - that of oracles; the lowest of these means by class; share of margins
            above (below) the one-sided 95 % prediction bound of the oracles' margins of the same recording.
        unit: nats; shares in [0, 1]; 95 % intervals; p-values by permutation of whole models.
        aim: 0, 0, 0.05 and 0.05.
        fooled by: the worst of many classes, which is low by chance alone: compare it with its null.
        source: Carlini et al., NeurIPS 2022 (onion effect).
    """
    classes = np.unique(label, return_inverse=True)[1]
    sizes = np.bincount(classes)

    def statistics(models: Floats, oracles: Floats) -> dict[str, float]:
        """Compute `retain_shift`, `retain_shift_worst_class`, `retain_exposed` and `retain_harmed`.

        retain_shift: mean margin less that of the oracles, nats; worst class: the lowest of the classes' means.
        retain_exposed, retain_harmed: the share of margins above, below the one-sided 95 % prediction bound of the
        oracles' margins of the same utterance; about 0.05 for an oracle in the models' place.
        """
        rows = models.reshape(-1, models.shape[-1])
        shift = rows.mean(axis=0) - oracles.mean(axis=0)
        return {
            "retain_shift": float(shift.mean()),
            "retain_shift_worst_class": float((np.bincount(classes, shift) / sizes).min()),
            "retain_exposed": _beyond(rows, oracles),
            "retain_harmed": _beyond(-rows, -oracles),
        }

    return statistics


def _beyond(rows: Floats, oracles: Floats) -> float:
    """Compute the share of margins (M, m) above the one-sided 95 % prediction bound of the oracles (K, m)."""
    count = len(oracles)
    width = stats.t.ppf(0.95, count - 1) * np.sqrt(1 + 1 / count)
    return float(np.mean(rows > oracles.mean(axis=0) + width * oracles.std(axis=0, ddof=1)))


def on_accuracy(models: Floats, oracles: Floats) -> dict[str, float]:
    """Compare test accuracies: models (J, 2), oracles (K,).

    Explanation:
        values: accuracy_test_gap
        meaning: How much better or worse unlearned models recognise new recordings than oracles do.
        formula: mean test accuracy of unlearned models - that of oracles.
        unit: a difference of shares in [-1, 1]; 95 % interval; p-value by permutation of whole models.
        aim: 0.
        fooled by: harm to a few classes or speakers, which a mean hides: read accuracy_worst_speakers_test.
        source: Golatkar et al., CVPR 2020 (against retrained models).
    """
    return {"accuracy_test_gap": float(models.mean() - oracles.mean())}


def permuted(statistics: Statistics, models: Floats, oracles: Floats, seed: int = 0) -> dict[str, Floats]:
    """Compute statistics of permutations of whole models, (1 + 199,) each; the first is the observed one."""
    joint = np.concatenate([models.reshape(-1, *models.shape[2:]), oracles])
    generator = np.random.default_rng(seed)
    drawn = [statistics(models, oracles)]
    for _ in range(PERMUTATIONS):
        order = joint[generator.permutation(len(joint))]
        drawn.append(statistics(order[: -len(oracles)].reshape(models.shape), order[-len(oracles) :]))
    return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}


def of_oracles(statistics: Statistics, oracles: Floats, pairs: int, seed: int = 0) -> dict[str, Floats]:
    """Compute statistics of oracles in the place of unlearned models, (100,) each.

    Half of the oracles, drawn anew each time, take the place of pairs; no oracle is compared with itself. There are
    fewer models a side than in the audit, so the band is wider than it would be with more oracles. Empty below 4
    oracles.
    """
    if len(oracles) < 4:
        return {}
    generator = np.random.default_rng(seed)
    count = min(len(oracles) // 2, pairs)
    drawn = []
    for _ in range(SPLITS):
        order = oracles[generator.permutation(len(oracles))]
        drawn.append(statistics(np.repeat(order[:count, None], 2, axis=1), order[count:]))
    return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}


def jackknife(statistics_of: Callable[[Integers], Statistics], models: Floats, oracles: Floats) -> dict[str, Interval]:
    """Compute 95 % intervals by leaving out one pair, and one oracle, in turn; t with the smaller number less 1.

    statistics_of: makes the statistics of the pairs with these numbers. nan below 3 pairs or oracles.
    """
    pairs = np.arange(len(models))
    value = statistics_of(pairs)(models, oracles)
    if min(len(models), len(oracles)) < 3:
        return dict.fromkeys(value, (float("nan"), float("nan")))
    kept = [np.delete(pairs, index) for index in pairs]
    parts = [
        [statistics_of(rest)(models[rest], oracles) for rest in kept],
        [statistics_of(pairs)(models, np.delete(oracles, index, axis=0)) for index in range(len(oracles))],
    ]
    width = stats.t.ppf(0.975, min(len(models), len(oracles)) - 1)
    found = {}
    for name, centre in value.items():
        variance = sum((len(part) - 1) * np.var([each[name] for each in part]) for part in parts)
        half = float(width * np.sqrt(variance))
        found[name] = (centre - half, centre + half)
    return found
