"""All figures of an audit: each with its interval over pairs, its null from oracles, and its p-value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from speechforget.evaluation.audit import against_oracles as against
from speechforget.evaluation.audit.catalogue import HARD, about
from speechforget.evaluation.audit.exchange import Exchange, Informed
from speechforget.evaluation.audit.per_utterance import RATES, PerUtterance, told_from_oracles
from speechforget.evaluation.audit.pool import KINDS, Mask, Pool, pool, split
from speechforget.evaluation.audit.signs import (
    Interval,
    middle,
    patterns,
    share_as_large,
)
from speechforget.evaluation.audit.tables import FLOOR, Floats, Integers, PairScores
from speechforget.evaluation.intervals import clopper_pearson, student

NONE: Interval = (math.nan, math.nan)
FEWEST_UNITS = 10  # attacked in a pair, below which no attack is scored
ASSIGNMENTS = 100
# The attacks that share one p-value, so that more attacks do not mean more false alarms.
PRIMARY = ("swap_auc_margin", "swap_auc_informed", "per_utterance_auc", "exposure", "hard_per_utterance_auc")
DIFFERENCES = ("told_from_oracles_auc", "energy_distance", "shift_from_oracles")


@dataclass(frozen=True)
class Figure:
    """Hold one number of an audit.

    model: `original`, `unlearned`, or `oracle`: oracles in the place of unlearned models, through the same code. low,
    high: 95 % interval, over pairs unless the figure is a TPR. null_low, null_high: the middle 95 % for oracles. p:
    that the models tell nothing. pairs, units: of models, and of utterances or speakers (`unit`). reason: why a number
    is missing.
    """

    name: str
    model: str
    value: float
    low: float
    high: float
    null_low: float
    null_high: float
    p: float
    pairs: int
    units: int
    unit: str
    ideal: float
    direction: str
    question: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, which has neither nan nor infinity."""
        return {
            key: None if isinstance(each, float) and not math.isfinite(each) else each
            for key, each in asdict(self).items()
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Figure:
        """Convert back: null becomes nan."""
        numbers: dict[str, Any] = {key: math.nan if each is None else each for key, each in entry.items()}
        return cls(**numbers)


@dataclass(frozen=True)
class _Draws:
    """Hold one statistic: observed, its interval, and its draws: by exchange (B,), the first observed; of oracles."""

    value: float
    interval: Interval
    exchanged: Floats
    null: Floats
    units: int
    reason: str = ""


def _without(reason: str, units: int = 0) -> _Draws:
    """Hold no value, and the reason for that."""
    return _Draws(math.nan, NONE, np.empty(0), np.empty(0), units, reason)


def figures(scores: PairScores, seed: int = 0) -> list[Figure]:
    """Compute all figures of an audit. seed: of permutations and of the places of oracles."""
    units = pool(scores)
    found = []
    attacks, others = _attacks(units, seed), _differences(scores, units, seed)
    for name in dict.fromkeys((*attacks["unlearned"], *others["unlearned"])):
        for kind in ("original", "unlearned"):
            found.append(_figure(name, kind, {**attacks[kind], **others[kind]}[name], units))
        found.append(_of_oracles(found[-1], {**attacks["unlearned"], **others["unlearned"]}[name].null))
    return found


def _figure(name: str, kind: str, draws: _Draws, units: Pool) -> Figure:
    """Make the figure of one statistic."""
    told = about(name)
    centred = draws.exchanged - told.ideal
    p = share_as_large(np.abs(centred) if told.two_sided else centred) if np.isfinite(draws.value) else math.nan
    reason = draws.reason
    if name.startswith(HARD) and kind == "original":
        p, reason = math.nan, reason or "no p-value: the hard units are chosen by the originals themselves"
    elif np.isfinite(draws.value) and math.isnan(p) and len(draws.exchanged):
        smallest = 1 / len(draws.exchanged)
        reason = reason or f"no p-value: {units.pairs} pairs cannot give one below {smallest:.3g}"
    if units.pairs < FLOOR:
        reason = reason or f"fewer than {FLOOR} pairs: raise evaluation.pairs"
    null = middle(draws.null) if len(draws.null) and np.isfinite(draws.null).all() else NONE
    unit = "speakers" if units.speakers else "utterances"
    numbers = (draws.value, *draws.interval, *null, p, units.pairs, draws.units, unit)
    return Figure(name, kind, *numbers, told.ideal, told.direction, told.question, reason)


def _of_oracles(like: Figure, null: Floats) -> Figure:
    """Make the figure of oracles in the place of unlearned models."""
    known = len(null) > 0 and bool(np.isfinite(null).all())
    value, interval = (float(null.mean()), middle(null)) if known else (math.nan, NONE)
    reason = "" if known else like.reason or f"fewer than {FLOOR} oracles: raise evaluation.oracles"
    numbers = (value, *interval, *interval, math.nan, like.pairs, like.units, like.unit)
    return Figure(like.name, "oracle", *numbers, like.ideal, like.direction, like.question, reason)


def _places(oracles: int, pairs: int, seed: int) -> Integers:
    """Draw which oracles take the place of each pair, (100, J, 2): two different ones, all as often as possible."""
    generator = np.random.default_rng(seed)
    at_once = oracles // 2
    rounds = -(-pairs // at_once)
    orders = generator.permuted(np.tile(np.arange(oracles), (ASSIGNMENTS, rounds, 1)), axis=2)
    return orders[:, :, : 2 * at_once].reshape(ASSIGNMENTS, rounds * at_once, 2)[:, :pairs]


def _attacks(units: Pool, seed: int) -> dict[str, dict[str, _Draws]]:
    """Run all attacks on the pool: kind -> name -> draws."""
    signs = patterns(units.pairs, seed)
    places = _places(len(units.margins("oracle")), units.pairs, seed)
    once = np.ones((1, units.pairs))
    drawn: dict[str, dict[str, _Draws]] = {"original": {}, "unlearned": {}}
    for prefix, attacked in (("", units.everyone), (HARD, units.hard)):
        sizes = [(attacked & (units.half == side)).sum(axis=1) for side in (0, 1)]
        few = int(np.min(sizes)) < FEWEST_UNITS / 2
        runs = {kind: _run(units, kind, attacked) for kind in KINDS}
        null = [[attack(place, once) for attack in runs["oracle"]] for place in places]
        for kind, found in drawn.items():
            for number, attack in enumerate(runs[kind]):
                for name, values in attack(units.own(), signs).items():
                    of_oracles = np.array([each[number][name].mean() for each in null])
                    found[prefix + name] = _draws(name, values, of_oracles, attacked, few)
    for found in drawn.values():
        found["strongest_attack"] = _strongest(found, PRIMARY)
    return drawn


def _run(units: Pool, kind: str, attacked: Mask) -> list[Exchange | Informed | PerUtterance]:
    """Prepare all attacks on one kind of models."""
    found: list[Exchange | Informed | PerUtterance] = [
        Exchange(name, values, units.half, attacked) for name, values in units.scores[kind].items()
    ]
    found.append(Informed(units.features[kind], units.half, attacked))
    found.append(PerUtterance(units.margins(kind), units.half, attacked))
    return found


def _draws(name: str, values: Floats, null: Floats, attacked: Mask, few: bool) -> _Draws:
    """Sum up the values (B, J) of an attack, or (B, 1) for a rate over all pairs."""
    count = int(attacked.sum(axis=1).max())
    exchanged = values.mean(axis=1)
    value, reason = float(exchanged[0]), ""
    if few:
        value, reason = math.nan, f"too few units: {count} are attacked, {FEWEST_UNITS} are needed"
    elif math.isnan(value):
        rate = {f"per_utterance_tpr_at_{key}": share for key, share in RATES.items()}[name]
        reason = f"too few negatives: {attacked.sum()}, {round(1 / rate)} are needed"
    if reason:
        return _without(reason, count)
    # The repeats of a unit over pairs are no further trials.
    interval = student(values[0].tolist()) if values.shape[1] > 1 else clopper_pearson(value * count, count)
    return _Draws(value, interval, exchanged, null, count)


def _strongest(found: dict[str, _Draws], names: tuple[str, ...]) -> _Draws:
    """Join statistics: the one that is farthest from its ideal, in standard deviations of its null from oracles.

    The spread of the exchanges would grow with what is to be found, and hide it.

    Explanation:
        values: strongest_attack, strongest_difference
        meaning: The strongest of several attacks on the request (of several differences from oracles), with one p-value
            for all of them: who tries five attacks and reports the best has five chances of a false alarm.
        formula: max over attacks of (value - ideal) / standard deviation of the value for oracles, absolute where both
            sides count; the p-value takes the same maximum in every exchange.
        unit: standard deviations; no interval.
        aim: the value of oracles in the models' place, which is above 0.
        fooled by: what fools all of its attacks.
        source: Westfall & Young 1993 (the maximum of permuted statistics).
    """
    known = {name: found[name] for name in names if name in found and not found[name].reason}
    if not known:
        return _without("none of the attacks has a value")
    exchanged: list[Floats] = []
    null: list[Floats] = []
    for name, draws in known.items():
        told = about(name)
        spread = (draws.null if len(draws.null) else draws.exchanged).std() or 1.0
        for part, into in ((draws.exchanged, exchanged), (draws.null, null)):
            centred = (part - told.ideal) / spread
            into.append(np.abs(centred) if told.two_sided else centred)
    of_oracles = np.max(null, axis=0) if all(len(part) for part in null) else np.empty(0)
    largest = np.max(exchanged, axis=0)
    units = max(draws.units for draws in known.values())
    return _Draws(float(largest[0]), NONE, largest, of_oracles, units)


def _differences(scores: PairScores, units: Pool, seed: int) -> dict[str, dict[str, _Draws]]:
    """Compare with oracles on the pool, on retain and on test: kind -> name -> draws."""
    pairs, oracles = units.pairs, units.margins("oracle")
    found: dict[str, dict[str, _Draws]] = {}
    for kind in ("original", "unlearned"):
        models = units.margins(kind).reshape(pairs, 2, -1)
        found[kind] = _compare(lambda kept: against.on_pool(units.half[kept]), models, oracles, seed, units.units)
        forgotten = split(units.margins(kind), units.own(), units.half)[0]
        turns = told_from_oracles(forgotten, oracles, units.half)
        told = found[kind]["told_from_oracles_auc"]
        found[kind]["told_from_oracles_auc"] = _Draws(
            told.value, student(turns.tolist()), told.exchanged, told.null, told.units
        )
        found[kind]["strongest_difference"] = _strongest(found[kind], DIFFERENCES)
        found[kind] |= _on_others(scores, kind, seed)
    return found


def _on_others(scores: PairScores, kind: str, seed: int) -> dict[str, _Draws]:
    """Compare with oracles on retain and on test."""
    tested, by = (np.asarray(scores.accuracy_test[each], dtype=np.float64) for each in (kind, "oracle"))
    if np.isfinite(by).all():
        found = _compare(lambda kept: against.on_accuracy, tested, by, seed, 0)
    else:
        found = {"accuracy_test_gap": _without("there is no test subset")}
    retain = against.on_retain(scores.retain_label)
    names = ("retain_shift", "retain_shift_worst_class", "retain_exposed", "retain_harmed")
    if not len(scores.retain_label):
        return found | dict.fromkeys(names, _without("no retain utterances were scored"))
    models = np.asarray(getattr(scores, f"retain_{kind}"), dtype=np.float64)
    oracles = np.asarray(scores.retain_oracle, dtype=np.float64)
    return found | _compare(lambda kept: retain, models, oracles, seed, len(scores.retain_label))


def _compare(
    statistics_of: Callable[[Integers], against.Statistics], models: Floats, oracles: Floats, seed: int, units: int
) -> dict[str, _Draws]:
    """Compute statistics of pairs against oracles, with permutations, intervals, and oracles in their place."""
    statistics = statistics_of(np.arange(len(models)))
    drawn = against.permuted(statistics, models, oracles, seed)
    null = against.of_oracles(statistics, oracles, len(models), seed)
    intervals = against.jackknife(statistics_of, models, oracles)
    return {
        name: _Draws(float(values[0]), intervals[name], values, null.get(name, np.empty(0)), units)
        for name, values in drawn.items()
    }
