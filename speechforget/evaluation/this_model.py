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
from speechforget.evaluation.intervals import difference, mean
from speechforget.evaluation.tables import NoOracle, Scores, Tables, Value, beside_all, missing

FEWEST_UTTERANCES = 10
WORST = 0.05


def _margins(tables: Tables, model: str, subset: str = "forget") -> tuple[Floats, Floats, Floats]:
    """Compute the margins of a subset: of the model (n,), of the original (n,), and of the other oracles (K, n).

    Raises NoOracle without an oracle.
    """
    if not tables.oracles:
        raise NoOracle
    rows = np.flatnonzero(tables.subsets()[subset])
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
    return missing(reason)


def _alone(value: float, count: int) -> Value:
    """Hold a number without an interval."""
    return Value(value, math.nan, math.nan, count)


def _groups(tables: Tables) -> NDArray[np.int64]:
    """Number the units that are exchanged as a whole: the speakers of forget, else its utterances."""
    mask = tables.subsets()["forget"]
    speaker = tables.speaker
    rows = np.arange(int(mask.sum()))
    if speaker is None:
        return rows
    names = [name or f"{row} without a speaker" for row, name in zip(rows, speaker[mask], strict=True)]
    return np.unique(names, return_inverse=True)[1]


@beside_all
def relative_test(tables: Tables, model: str) -> dict[str, Value]:
    """Test whether the model is nearer to the original than to the oracles, by the margins of forget.

    Explanation:
        values: relative_test, relative_test_p
        meaning: No model equals an oracle, not even a second oracle. So this test asks whether the model is at least
            nearer to the oracles than to the original. Below 0 it is. The largest p-value over oracles is given; a
            small one is evidence of a model that is nearer to the original.
        formula: mean over oracles of MMD^2(model, oracle) - MMD^2(model, original) of margins, with a Gaussian kernel
            of the median width; p by exchange of oracle and original, speaker by speaker (utterance by utterance
            without names).
        unit: none; a p-value in [0, 1].
        aim: below 0, as for an oracle in the model's place; a p-value that is not small.
        fooled by: over-forgetting, which passes: read equivalence_p beside it.
        source: Bounliphone et al., ICLR 2016; for audits Ribero, Schrab & Gretton, AISTATS 2026, arXiv 2601.19755.
    """
    mine, original, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"relative_test": reason, "relative_test_p": reason}
    groups = _groups(tables)
    tests = [nearer_to_original(mine, oracle, original, groups, tables.seed) for oracle in oracles]
    statistic, units = float(np.mean([test.statistic for test in tests])), int(groups.max()) + 1
    p = max(test.p for test in tests)
    value = missing(f"{units} speakers cannot give a p-value below 0.05") if math.isnan(p) else None
    return {"relative_test": _alone(statistic, units), "relative_test_p": value or _alone(p, units)}


@beside_all
def equivalence_test(tables: Tables, model: str) -> dict[str, Value]:
    """Test whether the model is farther from the oracles than they are from each other, by the margins of forget.

    Explanation:
        values: equivalence_distance, equivalence_p
        meaning: How far the model's margins are from the oracles'. The p-value is the share of these K + 1 models that
            are at least as far from the others. Both kinds of failure make it small: memory that is left, and
            over-forgetting.
        formula: log of the mean over oracles of MMD^2(model, oracle) of margins, with a Gaussian kernel of the median
            width, all pairs in its means; p = share of the K + 1 models whose mean MMD^2 to the K others is as large.
        unit: natural logarithm of a squared distance; a p-value in [1 / (K + 1), 1].
        aim: the distance of an oracle to the others (null_low to null_high); a p-value that is not the smallest.
        fooled by: few oracles: with 3 the p-value is never below 0.25; one margin for each utterance, which does not
            see answers among the other classes.
        source: Gretton et al., JMLR 2012 (MMD); rank test of exchangeable models.
    """
    mine, _, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"equivalence_distance": reason, "equivalence_p": reason}
    test = equivalence(mine, oracles)
    return {
        "equivalence_distance": _alone(test.statistic, len(oracles)),
        "equivalence_p": _alone(test.p, len(oracles)),
    }


@beside_all
def completeness_forget(tables: Tables, model: str) -> dict[str, Value]:
    """Compute how completely each utterance of forget was unlearned (IAM).

    Explanation:
        values: completeness_forget, completeness_lowest
        meaning: Where each utterance's margin lies between that of a model that never heard it and that of the
            original. The mean is given, and the mean of the lowest 5 %: a few utterances may be as well known as
            before.
        formula: 1 - sum_a a F_a(u) / sum_a a, with F_a the Gumbel distribution around o + a (m - o); u, m, o: margins
            of the model, of the original, and of the oracles on average; a from 0 to 1.
        unit: a share in [0, 1]; the mean with a 95 % normal interval over utterances.
        aim: the value of an oracle compared with the others, not 1. Above it, margins are lower than in oracles.
        fooled by: utterances that original and oracles know equally well, for which any value is noise.
        source: IAM, USENIX Security 2025, arXiv 2506.06112.
    """
    mine, original, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"completeness_forget": reason, "completeness_lowest": reason}
    each = np.sort(completeness(mine, original, oracles))
    lowest = each[: math.ceil(WORST * len(each))]
    return {"completeness_forget": mean(each), "completeness_lowest": _alone(float(lowest.mean()), len(lowest))}


@beside_all
def exposure_forget(tables: Tables, model: str) -> dict[str, Value]:
    """Compute by how much the model knows the forgotten utterances better than oracles do.

    Explanation:
        values: exposure_forget
        meaning: How many nats the margins of forget lie above the oracles', once the same difference on validation is
            taken away. Above the oracles' value, memory is left; below it, the model forgot more than oracles. A model
            that is less sure of every utterance moves both subsets, which changes nothing.
        formula: mean over forget of (m - o) - mean over validation of (m - o); m, o: margins of the model and of the
            oracles on average.
        unit: nats, with a 95 % normal interval over utterances.
        aim: 0, as for oracles compared with the others, on average.
        fooled by: single utterances: some may be known and others over-forgotten; read told_from_oracles beside it. A
            few hundred utterances of validation leave about 0.2 nats of chance between oracles.
        source: difference in differences; per model what `exposure` of an audit is per utterance.
    """
    mine, _, oracles = _margins(tables, model)
    if reason := _missing(oracles):
        return {"exposure_forget": reason}
    unheard, _, others = _margins(tables, model, "validation")
    if unheard.size < FEWEST_UTTERANCES:
        return {"exposure_forget": missing(f"validation has fewer than {FEWEST_UTTERANCES} utterances")}
    return {"exposure_forget": difference(mine - oracles.mean(axis=0), unheard - others.mean(axis=0))}


@beside_all
def told_from_oracles(tables: Tables, model: str) -> dict[str, Value]:
    """Tell the model from an oracle, utterance by utterance, with one oracle left out in turn.

    One unlearned model shows one draw of the method. A shift of its own is no sign of failure, so only the rank is a
    test.

    Explanation:
        values: told_from_oracles, told_from_oracles_p
        meaning: How surely this model is told from an oracle: whether its margins are more unusual than the oracle's,
            both judged by the other oracles. The p-value is the share of these K + 1 models that are told from the
            others as surely.
        formula: mean over turns of the AUC of (margin - mean margin of the other oracles)^2, model against the oracle
            left out; p = rank among K + 1 models.
        unit: a share in [0, 1]; a p-value in [1 / (K + 1), 1]; `count` is the number of oracles.
        aim: 0.5, and a p-value that is not the smallest. Below 0.5 the model is nearer to oracles than they are to each
            other.
        fooled by: few oracles: with 3 the p-value is never below 0.25.
        source: after the efficacy game of RULI, USENIX Security 2025, arXiv 2506.13009.
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
