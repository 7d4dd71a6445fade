"""Can the loss tell that an utterance was trained on? Attacks with retain, forget and holdout; the test set is never used.

Over-forgetting is as visible to an attacker as no forgetting, so no value is good in itself: the oracle's is the aim.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from speechforget import draws
from speechforget.evaluation.intervals import share, wilson
from speechforget.evaluation.tables import NOTHING, Mask, Tables, Value

Losses = NDArray[np.float64]


def _finite(loss: Losses) -> Losses:
    """A loss that is infinite or not a number counts as the highest of all."""
    return np.nan_to_num(loss, nan=1e300, posinf=1e300, neginf=-1e300)


def _placements(of: Losses, among: Losses) -> Losses:
    """For each of `of`, the share of `among` that is larger, ties half."""
    ordered = np.sort(among)
    left, right = np.searchsorted(ordered, of, "left"), np.searchsorted(ordered, of, "right")
    return 1 - (left + right) / (2 * len(ordered))


def area_under_curve(members: Losses, nonmembers: Losses, confidence: float = 0.99) -> Value:
    """AUC of the attack score -loss: P(member's loss < non-member's loss) + half the ties, in [0, 1]; counts non-members.

    Interval: the variance of DeLong et al. (Biometrics 1988), put as an effective number of trials AUC (1 - AUC) / variance into Wilson's
    interval, which stays inside [0, 1]. Where that variance is 0 (perfect separation, all tied, one utterance) its bound
    AUC (1 - AUC) / min(members, non-members) (van Dantzig 1951) takes its place. Measured on normal scores, 30 against 30: it covers 99.1 % at
    AUC 0.5 and 97 % at 0.96, where the plain normal interval covers 98.4 % and 90 %.
    """
    if not len(members) or not len(nonmembers):
        return NOTHING
    members, nonmembers = _finite(members), _finite(nonmembers)
    by_member, by_nonmember = _placements(members, nonmembers), 1 - _placements(nonmembers, members)
    value = float(by_member.mean())
    smaller = min(len(members), len(nonmembers))
    variance = math.nan
    if smaller > 1:
        variance = float(by_member.var(ddof=1) / len(members) + by_nonmember.var(ddof=1) / len(nonmembers))
    trials = value * (1 - value) / variance if variance > 1e-12 else float(smaller)
    return Value(value, *wilson(value, trials, confidence), len(nonmembers))


def auc(tables: Tables, model: str) -> dict[str, Value]:
    """`membership_auc`: `area_under_curve` of forget against the matched holdout, with a 99 % interval.

    1: forget still looks trained on; 0: it sticks out by its high loss; both give it away. nan with count 0 without non-members.
    """
    loss = tables.of(model).loss
    subsets = tables.subsets()
    return {"membership_auc": area_under_curve(loss[subsets["forget"]], loss[subsets["nonmembers"]])}


def best_threshold(members: Losses, nonmembers: Losses) -> tuple[float, float]:
    """The loss in nats above which to call an utterance a non-member, and the balanced accuracy in [0.5, 1] that it reaches.

    Halfway between two neighbouring losses, or infinite where no cut beats 0.5; the lowest of equally good ones.
    """
    members, nonmembers = np.sort(_finite(members)), np.sort(_finite(nonmembers))
    losses = np.unique(np.concatenate([members, nonmembers]))
    middle = losses[:-1] + np.diff(losses) / 2
    middle = np.where(middle < losses[1:], middle, losses[:-1])
    cuts = np.concatenate([[-np.inf], middle, [np.inf]])
    kept = np.searchsorted(members, cuts, "right") / len(members)
    rejected = 1 - np.searchsorted(nonmembers, cuts, "right") / len(nonmembers)
    best = int(np.argmax(kept + rejected))
    return float(cuts[best]), float((kept + rejected)[best] / 2)


def _calibration(tables: Tables) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equal numbers of retain and holdout rows, the same for every model; holdout of labels that occur in retain only."""
    role, label = tables.original.role, tables.original.label
    retain = role == "retain"
    holdout: Mask = (role == "holdout") & np.isin(label, label[retain])
    size = min(int(retain.sum()), int(holdout.sum()))

    def draw(mask: Mask, name: str) -> NDArray[np.int64]:
        return draws.order(np.flatnonzero(mask), tables.seed, "membership", name)[:size]

    return draw(retain, "retain"), draw(holdout, "holdout")


def loss_threshold(tables: Tables, model: str) -> dict[str, Value]:
    """The paper's attack: a threshold fitted between equal numbers of retain and holdout, applied to forget.

    `membership_nonmember_share` in [0, 1]: the share of forget with a loss above the threshold (95 % Wilson interval, the threshold taken as
    given; counts forget). `membership_attack_accuracy` in [0.5, 1]: the balanced accuracy of the fit, 0.5 for an attack that learnt nothing.
    nan with count 0 without holdout. After Cheng & Amiri, Interspeech 2025, section 3, who do not say what the threshold was fitted on.
    """
    loss = tables.of(model).loss
    retain, holdout = _calibration(tables)
    if not len(holdout):
        return {"membership_nonmember_share": NOTHING, "membership_attack_accuracy": NOTHING}
    threshold, reached = best_threshold(loss[retain], loss[holdout])
    accuracy = Value(reached, math.nan, math.nan, len(retain) + len(holdout))
    return {
        "membership_nonmember_share": share(_finite(loss[tables.subsets()["forget"]]) > threshold),
        "membership_attack_accuracy": accuracy,
    }
