"""What each figure of an audit asks, its ideal, and how to read it."""

from __future__ import annotations

from typing import NamedTuple

REQUEST, ORACLE, INSIDE, RETURNS, OTHERS = "request", "oracle", "inside", "returns", "others"
QUESTIONS = {
    REQUEST: "Can the request's recordings be told from recordings never heard?",
    ORACLE: "Can the model be told from an oracle?",
    INSIDE: "Is the word or the voice still inside?",
    RETURNS: "Does it come back?",
    OTHERS: "Were others harmed?",
}
HARD = "hard_"
SIDES = "above the ideal: forgotten recordings still look known; below: they stand out as unknown"
LARGER = "the larger, the better they are told apart; it does not say on which side"


class About(NamedTuple):
    """Say what a figure asks, its value for an oracle, and what a larger and a smaller value mean.

    two_sided: whether a value below the ideal is evidence, too.
    """

    question: str
    ideal: float
    direction: str
    two_sided: bool = False


def about(name: str) -> About:
    """Describe the figure of that name; figures on the hard third read as those on all units."""
    return ABOUT[name.removeprefix(HARD)]


SCORES = ("margin", "confidence", "entropy", "modified_entropy", "informed")
ABOUT = {
    **{f"swap_auc_{score}": About(REQUEST, 0.5, SIDES, two_sided=True) for score in SCORES[:-1]},
    "swap_auc_informed": About(REQUEST, 0.5, LARGER),
    **{f"swap_advantage_{score}": About(REQUEST, 0.0, LARGER) for score in SCORES},
    "per_utterance_auc": About(REQUEST, 0.5, LARGER),
    "per_utterance_accuracy": About(REQUEST, 0.5, LARGER),
    "per_utterance_tpr_at_1_percent": About(REQUEST, 0.01, LARGER),
    "per_utterance_tpr_at_0.1_percent": About(REQUEST, 0.001, LARGER),
    "exposure": About(REQUEST, 0.0, SIDES, two_sided=True),
    "strongest_attack": About(REQUEST, 0.0, LARGER),
    "told_from_oracles_auc": About(ORACLE, 0.5, LARGER),
    "energy_distance": About(ORACLE, 0.0, LARGER),
    "shift_from_oracles": About(ORACLE, 0.0, SIDES, two_sided=True),
    "strongest_difference": About(ORACLE, 0.0, LARGER),
    "retain_shift": About(OTHERS, 0.0, "above: others are more exposed; below: others are less well known", True),
    "retain_shift_worst_class": About(OTHERS, 0.0, "the lower, the more one class is harmed", True),
    "retain_exposed": About(OTHERS, 0.05, "the larger, the more other recordings are more exposed"),
    "retain_harmed": About(OTHERS, 0.05, "the larger, the more other recordings are less well known"),
    "accuracy_test_gap": About(OTHERS, 0.0, "below: new recordings are less well recognised", two_sided=True),
}
