"""What the margins of one unlearned model show beside those of K oracles: distances, completeness, and a game.

A margin is the log-odds of the label, in nats. An oracle in the unlearned model's place is compared with the others.
p-values by rank exchange whole models, so they are exact for any request, and 1 / (K + 1) at the least.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.audit.attack_scores import margin
from speechforget.evaluation.audit.completeness import completeness
from speechforget.evaluation.audit.distances import FEWEST_ORACLES, equivalence, nearer_to_original, rank_test
from speechforget.evaluation.audit.exchange import area
from speechforget.evaluation.audit.tables import Floats
from speechforget.evaluation.intervals import mean
from speechforget.evaluation.tables import NOTHING, NoOracle, Scores, Tables, Value

FEWEST_UTTERANCES = 10
WORST = 0.05


def _margins(tables: Tables, model: str) -> tuple[Floats, Floats, Floats]:
    """Compute the margins of forget: of the model (n,), of the original (n,), and of the other oracles (K, n).

    Raises NoOracle without an oracle.
    """
    if not tables.oracles:
        raise NoOracle
    rows = np.flatnonzero(tables.subsets()["forget"])
    mine = tables.of(model)

    def read(scores: Scores) -> Floats:
        return margin(np.asarray(scores.logits[rows]), scores.label[rows])

    others = [read(each) for each in tables.oracles if each is not mine]
    return read(mine), read(tables.original), np.array(others).reshape(len(others), len(rows))


def _missing(oracles: Floats, fewest: int = FEWEST_ORACLES - 1) -> Value | None:
    """Say why oracles (K, n) are too few or have too few utterances; None if they are enough.

    fewest: one less than is asked of a run, since an oracle in the model's place has one fewer to be compared with.
    """
    if oracles.shape[1] < FEWEST_UTTERANCES:
        reason = f"fewer than {FEWEST_UTTERANCES} utterances are to be forgotten"
    elif len(oracles) < fewest:
        reason = f"fewer than {fewest + 1} oracles: raise evaluation.oracles"
    else:
        return None
    return NOTHING._replace(reason=reason)


def _alone(value: float, count: int) -> Value:
    """Hold a number without an interval."""
    return Value(value, math.nan, math.nan, count)


def _groups(tables: Tables) -> NDArray[np.int64]:
    """Number the units that are exchanged as a whole: the speakers of forget, else its utterances."""
    mask = tables.subsets()["forget"]
    speaker = getattr(tables, "speaker", None)
    rows = np.arange(int(mask.sum()))
    if speaker is None:
        return rows
    names = [name or f"{row} without a speaker" for row, name in zip(rows, speaker[mask], strict=True)]
    return np.unique(names, return_inverse=True)[1]


def relative_test(tables: Tables, model: str) -> dict[str, Value]:
    """Test whether the model is nearer to the original than to the oracles, by the margins of forget.

    `relative_test`: mean over oracles of MMD^2(model, oracle) - MMD^2(model, original); below 0 where the model is
    nearer to the oracles. `relative_test_p`: the largest p-value over oracles; a small one is evidence of a model that
    is nearer to the original. The p-value exchanges speakers, or utterances where speakers are not known.

    A model that over-forgets passes, so read it beside `equivalence`. Source: Bounliphone et al. (ICLR 2016); for
    audits of unlearning Ribero, Schrab & Gretton (AISTATS 2026, arXiv 2601.19755).
    """
    mine, original, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"relative_test": reason, "relative_test_p": reason}
    groups = _groups(tables)
    tests = [nearer_to_original(mine, oracle, original, groups, tables.seed) for oracle in oracles]
    statistic, units = float(np.mean([test.statistic for test in tests])), int(groups.max()) + 1
    p = max(test.p for test in tests)
    value = NOTHING._replace(reason=f"{units} speakers cannot give a p-value below 0.05") if math.isnan(p) else None
    return {"relative_test": _alone(statistic, units), "relative_test_p": value or _alone(p, units)}


def equivalence_test(tables: Tables, model: str) -> dict[str, Value]:
    """Test whether the model is farther from the oracles than they are from each other, by the margins of forget.

    `equivalence_distance`: mean MMD^2 to the oracles, Gaussian kernel of the median width. `equivalence_p`: the share
    of model and oracles whose mean MMD^2 to all others is as large. Both kinds of failure make it small.
    """
    mine, _, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"equivalence_distance": reason, "equivalence_p": reason}
    test = equivalence(mine, oracles)
    return {
        "equivalence_distance": _alone(test.statistic, len(oracles)),
        "equivalence_p": _alone(test.p, len(oracles)),
    }


def completeness_forget(tables: Tables, model: str) -> dict[str, Value]:
    """Compute how completely each utterance of forget was unlearned (IAM), in [0, 1].

    `completeness_forget`: the mean, with a 95 % normal interval over utterances. `completeness_lowest`: the mean of the
    lowest 5 %. Neither aims at 1: the aim is the value of an oracle compared with the others. Above it, forgotten
    utterances have lower margins than in oracles. Source: USENIX Security 2025, arXiv 2506.06112.
    """
    mine, original, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"completeness_forget": reason, "completeness_lowest": reason}
    each = np.sort(completeness(mine, original, oracles))
    lowest = each[: math.ceil(WORST * len(each))]
    return {"completeness_forget": mean(each), "completeness_lowest": _alone(float(lowest.mean()), len(lowest))}


def told_from_oracles(tables: Tables, model: str) -> dict[str, Value]:
    """Tell the model from an oracle, utterance by utterance, with one oracle left out in turn.

    `told_from_oracles`: the AUC of the squared distance of an utterance's margin to the mean of the other oracles;
    0.5 in expectation for a further oracle, below where the model is nearer to them than they are to each other.
    `told_from_oracles_p`: the share of model and oracles that are told from all others as surely.

    One unlearned model shows one draw of the method: that a model has a shift of its own is no sign of failure, so only
    the rank among oracles is a test. After the efficacy game of RULI (USENIX Security 2025, arXiv 2506.13009).
    """
    mine, _, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"told_from_oracles": reason, "told_from_oracles_p": reason}
    models = np.concatenate([mine[None], oracles])
    test = rank_test(np.array([_told(models, index) for index in range(len(models))]))
    return {
        "told_from_oracles": _alone(test.statistic, len(oracles)),
        "told_from_oracles_p": _alone(test.p, len(oracles)),
    }


def _told(models: Floats, index: int) -> float:
    """Compute how surely one of the models (K + 1, n) is told from the others; each of them is left out in turn."""
    others = np.delete(models, index, axis=0)
    turns = []
    for turn in range(len(others)):
        centre = np.delete(others, turn, axis=0).mean(axis=0)
        turns.append(area((models[index] - centre) ** 2, (others[turn] - centre) ** 2))
    return float(np.mean(turns))
