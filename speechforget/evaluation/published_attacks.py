"""Attacks that papers report, as their code fits them: five support-vector attacks and two logistic ones.

They are the second line: population attacks with little power, kept so that numbers can be compared with papers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechforget import seeding
from speechforget.evaluation import attack_features
from speechforget.evaluation.attack_features import correctness, entropy, modified_entropy, true_probability
from speechforget.evaluation.divergence import Rows
from speechforget.evaluation.intervals import share, wilson
from speechforget.evaluation.membership import calibration_rows, guess
from speechforget.evaluation.tables import NOTHING, Scores, Tables, Value, missing

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

Members = NDArray[np.int64]

# MOST: utterances of each side that an attack is fitted on. FOLDS, SPLITS: of the cross-validations.
MOST, FOLDS, SPLITS = 300, 5, 10
FEWEST = 10  # utterances of each side: a split leaves out a tenth
FEATURES = {
    "correctness": correctness,
    "confidence": true_probability,
    "entropy": entropy,
    "modified_entropy": modified_entropy,
}
PROBABILITIES = "probabilities"


def support_vectors() -> ClassifierMixin:
    """Build the classifier of the five attacks: C = 3, RBF kernel of width 1 / number of features."""
    from sklearn.svm import SVC

    return SVC(C=3, kernel="rbf", gamma="auto")


def logistic() -> ClassifierMixin:
    """Build the classifier of the logistic attacks: the library's defaults."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def fitted_share(model: ClassifierMixin, members: Rows, nonmembers: Rows, forget: Rows) -> NDArray[np.bool_]:
    """Fit an attack to members and non-members; return which forget utterances it calls non-members, (n,)."""
    told = np.repeat([1, 0], [len(members), len(nonmembers)])
    model.fit(np.concatenate([members, nonmembers]), told)
    return np.asarray(model.predict(forget)) == 0


def held_out(model: ClassifierMixin, members: Rows, nonmembers: Rows) -> Value:
    """Cross-validate an attack: its accuracy on held-out utterances, with a 99 % Wilson interval.

    members, nonmembers: equal numbers, in random order.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    told = np.repeat([1, 0], [len(members), len(nonmembers)])
    found = cross_val_predict(model, np.concatenate([members, nonmembers]), told, cv=StratifiedKFold(FOLDS))
    value = float(np.mean(found == told))
    return Value(value, *wilson(value, len(told), 0.99), len(told))


def _transfer(name: str, model: ClassifierMixin, members: Rows, nonmembers: Rows, forget: Rows) -> dict[str, Value]:
    """Fit an attack on retain against holdout and apply it to forget."""
    if not len(forget) or not len(nonmembers):
        accuracy = found = NOTHING
    elif len(nonmembers) < FEWEST:
        accuracy = found = missing(f"the attack needs {FEWEST} holdout utterances; there are {len(nonmembers)}")
    else:
        accuracy = held_out(model, members, nonmembers)
        hits = fitted_share(model, members, nonmembers, forget) if accuracy.low > 0.5 else None
        found = guess(accuracy) if hits is None else share(hits)
    return {f"{name}_nonmember_share": found, f"{name}_accuracy": accuracy}


def fitted_attacks(tables: Tables, model: str) -> dict[str, Value]:
    """Fit five support-vector attacks and a logistic one on retain against holdout, and apply them to forget.

    Explanation:
        values: svc_<feature>_nonmember_share, svc_<feature>_accuracy, logistic_entropy_nonmember_share,
            logistic_entropy_accuracy
        meaning: A classifier learns to tell retain from holdout by one feature of the outputs, and then judges forget:
            the share that it takes for utterances that were never heard. The accuracy says how often it is right about
            retain and holdout that it was not fitted on; where that is no better than guessing, there is no share.
        formula: SVC(C = 3, RBF, gamma = 1 / features) on 1[prediction = y] (correctness), p_y (confidence), entropy,
            modified entropy, or all probabilities; logistic regression on the entropy. Equal numbers of retain and
            holdout, at most 300 each, drawn by seed; accuracy by 5-fold cross-validation.
        unit: a share in [0, 1]; 95 % Wilson interval of the share for this fit, 99 % Wilson of the accuracy.
        aim: the oracle's value. More is not better: papers that print a high share as success reward over-forgetting.
        fooled by: over-forgetting, which looks like success; forget that is easier or harder than holdout; little
            memory, with which no population attack works.
        source: Jia et al., NeurIPS 2023, and Fan et al., ICLR 2024 (five attacks; modified entropy as Song & Mittal
            define it, not as their code has it); Chundawat et al., AAAI 2023 (entropy).
    """
    scores = tables.of(model)
    rows = [part[:MOST] for part in calibration_rows(tables)]
    rows.append(np.flatnonzero(tables.subsets()["forget"]))
    columns = [attack_features.read(scores, part, *FEATURES.values()) for part in rows]
    read = {name: [column[index][:, None] for column in columns] for index, name in enumerate(FEATURES)}
    read[PROBABILITIES] = [attack_features.probabilities(scores.logits[part]) for part in rows]
    found: dict[str, Value] = {}
    for name, (retain, holdout, forget) in read.items():
        found |= _transfer(f"svc_{name}", support_vectors(), retain, holdout, forget)
    return found | _transfer("logistic_entropy", logistic(), *read["entropy"])


def split_accuracy(losses: Rows, members: Members) -> float:
    """Average the accuracy of a logistic attack over ten random splits, each with a tenth held out.

    losses, members (1 or 0): (n,), equal numbers of both, in random order.
    """
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    splits = StratifiedShuffleSplit(SPLITS, random_state=0)
    return float(cross_val_score(logistic(), losses[:, None], members, cv=splits, scoring="accuracy").mean())


def forget_attack_accuracy(scores: Scores, seed: int) -> Value:
    """Fit a logistic attack by the loss on forget against non-members, and cross-validate it, once for each table."""
    key = ("forget attack", seed)
    if key not in scores.memo:
        scores.memo[key] = _forget_attack_accuracy(scores, seed)
    found: Value = scores.memo[key]
    return found


def _forget_attack_accuracy(scores: Scores, seed: int) -> Value:
    parts = [np.flatnonzero(scores.role == "forget"), np.flatnonzero(scores.nonmember)]
    size = min(map(len, parts))
    if not size:
        return NOTHING
    if size < FEWEST:
        return missing(f"the attack needs {FEWEST} utterances of forget and of non-members; there are {size} of one")
    drawn = [seeding.order(part, seed, "forget attack", "draw")[:size] for part in parts]
    rows = seeding.order(np.concatenate(drawn), seed, "forget attack", "order")
    value = split_accuracy(np.asarray(scores.loss[rows]), np.isin(rows, drawn[0]).astype(np.int64))
    return Value(value, math.nan, math.nan, 2 * size)


def forget_attack(tables: Tables, model: str) -> dict[str, Value]:
    """Tell forget from its non-members by a logistic attack on the loss.

    Explanation:
        values: forget_attack_accuracy
        meaning: How often a classifier is right that was fitted on the losses of a part of forget and of the
            non-members, and asked about the rest. GUM and CGUM use it.
        formula: mean accuracy of logistic regression on the loss over 10 random splits with a tenth held out; equal
            numbers of forget and non-members, drawn by seed.
        unit: a share in [0, 1], 0.5 is guessing; no interval: it varies by 1 to 3 points with the splits below 500
            forgotten utterances.
        aim: the oracle's value, which is 0.5 only if forget and non-members are exchangeable.
        fooled by: losses with one mean and two shapes, which one threshold cannot tell apart; few utterances.
        source: Kurmanji et al., NeurIPS 2023 (SCRUB); Koudounas et al., Interspeech 2025 (UnSLU-BENCH).
    """
    return {"forget_attack_accuracy": forget_attack_accuracy(tables.of(model), tables.seed)}
