"""GUM and CGUM of UnSLU-BENCH: utility, forgetting and time in one number."""

from __future__ import annotations

import math

from speechforget.evaluation.accuracy import macro_f1
from speechforget.evaluation.published_attacks import forget_attack_accuracy
from speechforget.evaluation.tables import Tables, Value, missing
from speechforget.evaluation.timing import seconds

ALPHA = BETA = 1.0  # weights of the authors
SMALL = 1e-6  # which the authors add to denominators


def _joined(utility: float, efficacy: float, time: float, alpha: float, beta: float) -> float:
    """Return the weighted harmonic mean of three scores."""
    product = (1 + alpha + beta) * utility * efficacy * time
    return product / (alpha * efficacy * time + beta * utility * time + utility * efficacy + SMALL)


def _clip(number: float) -> float:
    return min(max(number, 0.0), 1.0)


def gum_score(
    f1: tuple[float, float],
    attack: tuple[float, float, float],
    time: tuple[float, float],
    alpha: float = ALPHA,
    beta: float = BETA,
) -> float:
    """Compute GUM; nan where its formula divides by zero.

    f1, time (seconds): of unlearned model and oracle. attack: accuracy on unlearned model, oracle and original.
    """
    unlearned, oracle, original = attack
    lowest = min(unlearned, original)
    middle = min((lowest + original) / 2, oracle)
    if max(original, lowest) == middle or time[1] <= 0:
        return math.nan
    efficacy = 1 - ((lowest - middle) / (max(original, lowest) - middle)) ** 2
    saved = 1 - math.log(time[0] + 1) / math.log(time[1] + 1)
    return _joined(1 - abs(f1[0] - f1[1]), efficacy, saved, alpha, beta)


def cgum_score(
    f1: tuple[float, float],
    attack: tuple[float, float, float],
    time: tuple[float, float],
    classes: int,
    alpha: float = ALPHA,
    beta: float = BETA,
) -> float:
    """Compute CGUM in [0, 1], with the authors' `SMALL` in every denominator. Arguments as for `gum_score`."""
    unlearned, oracle, original = attack
    reached = min(unlearned, original) if original >= oracle else max(unlearned, original)
    efficacy = _clip(1 - abs(reached - oracle) / (abs(original - oracle) + SMALL))
    utility = _clip((f1[0] - 1 / classes) / (f1[1] - 1 / classes + SMALL))
    saved = _clip(1 - math.log(time[0] + 1) / (math.log(time[1] + 1) + SMALL))
    return _joined(utility, efficacy, saved, alpha, beta)


def _noise(oracle: Value, original: Value) -> str:
    """Say that the attack does not tell the original from the oracle; empty if it does, by one standard error."""
    if abs(original.value - oracle.value) >= math.sqrt(original.value * (1 - original.value) / original.count):
        return ""
    told = f"{original.value:.3f} and {oracle.value:.3f}"
    return f"the attack's accuracies on original and oracle ({told}) differ by less than their standard error"


def gum(tables: Tables, model: str) -> dict[str, Value]:
    """Compute `gum` and `cgum` of a model from macro-F1, the logistic attack and seconds.

    Explanation:
        values: gum, cgum
        meaning: One number for a method: how much of the oracle's macro-F1 it keeps, how far the attack's accuracy
            moves from the original's to the oracle's, and how much time it saves over training anew. CGUM is the
            authors' later version, which stays in [0, 1] and which they recommend.
        formula: CGUM: U = clip((F1 - 1/K) / (F1_oracle - 1/K)); E = clip(1 - |a - a_oracle| / |a_original - a_oracle|),
            a not beyond a_original; T = clip(1 - ln(t + 1) / ln(t_oracle + 1)); value = 3 U E T / (E T + U T + U E +
            1e-6). GUM: U = 1 - |F1 - F1_oracle|; m = min(a, a_original); g = min((m + a_original) / 2, a_oracle); E = 1
            - ((m - g) / (max(a_original, m) - g))^2; T without clip.
        unit: none; no interval; `count` is the number of utterances of the attack. GUM may leave [0, 1].
        aim: 1; the original is 0 and so is the oracle, which saves no time. The gap to the oracle means nothing.
        fooled by: an attack that hardly tells original from oracle, where E is noise (below one standard error there is
            no value); seconds of different machines; one number that hides which of the three parts failed.
        source: Koudounas et al., Interspeech 2025 (GUM); Koudounas et al., TASLP 2026 (CGUM).
    """
    oracle = tables.oracle
    models = (tables.of(model), oracle, tables.original)
    attack = [forget_attack_accuracy(scores, tables.seed) for scores in models]
    f1 = [macro_f1(tables, name)["macro_f1_test"] for name in (model, "oracle")]
    time = [seconds(tables, name)["seconds"] for name in (model, "oracle")]
    reason = next((value.reason for value in (*attack, *f1, *time) if value.reason), "") or _noise(*attack[1:])
    if reason:
        return dict.fromkeys(("gum", "cgum"), missing(reason))
    scores, attacks, spent = ((part[0].value, part[1].value) for part in (f1, attack, time))
    numbers = scores, (*attacks, attack[2].value), spent
    found = {"gum": gum_score(*numbers), "cgum": cgum_score(*numbers, oracle.logits.shape[1])}
    undefined = missing("its formula divides by zero for these models")
    return {
        name: undefined if math.isnan(score) else Value(score, math.nan, math.nan, attack[0].count)
        for name, score in found.items()
    }
