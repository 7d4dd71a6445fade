"""What the figures of an audit say about three of the five questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from speechforget.evaluation.audit.catalogue import about
from speechforget.evaluation.audit.figures import DIFFERENCES, PRIMARY, Figure
from speechforget.evaluation.audit.signs import LEVEL
from speechforget.evaluation.audit.tables import FLOOR

WEAK_ATTACK = 0.05  # advantage on the originals below which an attack says nothing about unlearned models
HARMS = ("accuracy_test_gap", "retain_shift", "retain_harmed", "retain_exposed")
MORE = "raise evaluation.pairs and evaluation.oracles"


class Said(NamedTuple):
    """Hold word, sentence, names of figures and strength of an answer."""

    word: str
    sentence: str
    evidence: tuple[str, ...]
    strength: str


def _of(figures: Sequence[Figure], model: str) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures if figure.model == model}


def _outside(figure: Figure) -> bool:
    """Say whether a value is outside the band of oracles; below it only where that is evidence, too."""
    if math.isnan(figure.null_low):
        return False
    return figure.value > figure.null_high or (about(figure.name).two_sided and figure.value < figure.null_low)


def _apart(figure: Figure, level: float = LEVEL) -> bool:
    """Say whether a value is not its ideal, with so many false alarms, and outside the band of oracles."""
    if not math.isfinite(figure.value) or not _outside(figure):
        return False
    if math.isfinite(figure.p):
        return figure.p <= level
    # Too few pairs for a p-value: the interval, widened to this level.
    freedom = figure.pairs - 1
    wider = stats.t.ppf(1 - level / 2, freedom) / stats.t.ppf(1 - LEVEL / 2, freedom)
    half = (figure.high - figure.low) / 2 * wider
    return bool(abs(figure.value - figure.ideal) > half)


def _told(mine: dict[str, Figure], joint: str, names: Sequence[str], level: float = LEVEL) -> list[Figure]:
    """List the figures that tell models apart: by their joint p-value where it exists, else each by its interval."""
    known = [mine[name] for name in names if name in mine and math.isfinite(mine[name].value)]
    if math.isfinite(mine[joint].p):
        return [each for each in known if _outside(each)] if mine[joint].p <= level else []
    return [each for each in known if _apart(each, level / len(known))]


def _listed(figures: Sequence[Figure]) -> str:
    return "; ".join(
        f"{each.name} {each.value:.3g}, oracles {each.null_low:.3g} to {each.null_high:.3g}" for each in figures[:3]
    )


def _strength(joint: Figure) -> str:
    return "weak" if math.isnan(joint.p) else "strong" if joint.p <= 0.01 else "moderate"


def _too_few(joint: Figure) -> Said | None:
    """Say that there are too few pairs, oracles or units; None if there are enough."""
    if joint.pairs < FLOOR or math.isnan(joint.value) or math.isnan(joint.null_low):
        reason = joint.reason or f"fewer than {FLOOR} oracles"
        return Said("too little to tell", f"Too little to tell, because of {reason}: {MORE}.", (joint.name,), "none")
    return None


def advantage(figures: Sequence[Figure], model: str) -> tuple[float, float]:
    """Find the largest advantage of an attack on all units, and the largest upper bound; nan without figures."""
    found = []
    for name, figure in _of(figures, model).items():
        scale = 2.0 if name == "per_utterance_accuracy" else 1.0 if name.startswith("swap_advantage") else 0.0
        if scale and math.isfinite(figure.value):
            found.append((scale * (figure.value - figure.ideal), scale * (figure.high - figure.ideal)))
    values, bounds = zip(*found, strict=True) if found else ((math.nan,), (math.nan,))
    return max(values), max(bounds)


def request_told(figures: Sequence[Figure], threshold: float | None = None, level: float = LEVEL) -> Said:
    """Answer whether the request's recordings can be told from others never heard, with so many false alarms."""
    mine, known = _of(figures, "unlearned"), _of(figures, "original")
    joint = mine["strongest_attack"]
    if few := _too_few(joint):
        return few
    told = _told(mine, joint.name, PRIMARY, level)
    of_original, bound = advantage(figures, "original")[0], advantage(figures, "unlearned")[1]
    if not (of_original >= WEAK_ATTACK and _told(known, joint.name, PRIMARY)):
        yet = f" Yet forgotten recordings stand out ({_listed(told)})." if told else ""
        sentence = "Too little to tell, because the attacks do not find the original itself: its advantage is "
        sentence += f"{of_original:.3f}, and {WEAK_ATTACK} is needed.{yet}"
        return Said("too little to tell", sentence, tuple(each.name for each in told) or (joint.name,), "none")
    policy = ""
    if threshold is not None:
        side = "below" if bound < threshold else "not below"
        policy = f" The advantage of the attacks is at most {bound:.3f} (95 %), {side} the threshold you set."
    if not told:
        power = known["per_utterance_auc"]
        shown = [mine["per_utterance_auc"], mine["swap_auc_margin"]]
        sentence = "Forgotten recordings were not told apart by these attacks from recordings never heard "
        sentence += f"({_listed(shown)}); the same attacks find the original ({power.name} {power.value:.3g}).{policy}"
        strength = "strong" if power.value >= 0.8 else "moderate" if power.value >= 0.6 else "weak"
        return Said("within", sentence, tuple(each.name for each in shown), strength)
    names = tuple(each.name for each in told)
    if any(_apart(mine[name]) and mine[name].value > mine[name].ideal for name in ("exposure", "swap_auc_margin")):
        sentence = f"There is evidence of recordings left in the model ({_listed(told)}).{policy}"
        return Said("under", sentence, names, _strength(joint))
    sentence = f"There is evidence of over-forgetting: forgotten recordings stand out ({_listed(told)}).{policy}"
    return Said("over", sentence, names, _strength(joint))


def oracle_told(figures: Sequence[Figure], level: float = LEVEL) -> Said:
    """Answer whether unlearned models can be told from oracles, with so many false alarms."""
    mine, known = _of(figures, "unlearned"), _of(figures, "original")
    joint = mine["strongest_difference"]
    if few := _too_few(joint):
        return few
    told = _told(mine, joint.name, DIFFERENCES, level)
    names = tuple(each.name for each in told)
    if told:
        shift = mine["shift_from_oracles"]
        if _apart(shift) and shift.value > 0:
            return Said(
                "under",
                f"There is evidence of models nearer to the original ({_listed(told)}).",
                names,
                _strength(joint),
            )
        sentence = f"There is evidence of models that oracles do not resemble ({_listed(told)})."
        return Said("over", sentence, names, _strength(joint))
    if not _told(known, joint.name, DIFFERENCES):
        sentence = "Too little to tell, because the originals themselves are not told from oracles."
        return Said("too little to tell", sentence, (joint.name,), "none")
    shown = [mine[name] for name in DIFFERENCES]
    sentence = f"Unlearned models were not told apart by these tests from oracles ({_listed(shown)})."
    return Said("within", sentence, DIFFERENCES, "moderate")


def harmed(figures: Sequence[Figure], level: float = LEVEL) -> Said:
    """Answer whether others were harmed: recordings that stay, and new ones; with so many false alarms."""
    mine = _of(figures, "unlearned")
    known = [mine[name] for name in HARMS if math.isfinite(mine[name].value)]
    if not known or any(few := [_too_few(each) for each in known]):
        return few[0] if known and few[0] else Said("too little to tell", f"Too little to tell: {MORE}.", HARMS, "none")
    apart = [each for each in known if _apart(each, level / len(known))]
    harms = [each for each in apart if each.name == "retain_harmed" or each.value < each.ideal]
    exposed = [each for each in apart if each not in harms and each.name.startswith("retain")]
    if harms:
        sentence = f"There is evidence of harm to others ({_listed(harms)})."
        return Said("over", sentence, tuple(each.name for each in harms), "strong")
    if exposed:
        sentence = f"There is evidence of other recordings being more exposed than in oracles ({_listed(exposed)})."
        return Said("under", sentence, tuple(each.name for each in exposed), "strong")
    sentence = f"Results for others were not told apart by these tests from those of oracles ({_listed(known)})."
    return Said("within", sentence, tuple(each.name for each in known), "moderate")
