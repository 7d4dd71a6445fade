"""What planted keys say of a request: tests with an exact null, N(0, 1), for which no other model is needed."""

from __future__ import annotations

import math
from statistics import NormalDist

from speechforget.evaluation.audit_answers import Said
from speechforget.evaluation.evidence import LEVEL, Comparison, number

KEYS = ("key_rank_z", "key_gradient_z")
FEWEST = 5.0  # z of the original, below which a small z of another model says little
MANY = 10.0  # z of the original, from which keys that are not found are strong evidence


def keys_told(comparison: Comparison, level: float = LEVEL) -> Said | None:
    """Answer from the keys of forgotten recordings, with so many false alarms for all statistics; None without keys."""
    known = {name: z for name in KEYS if math.isfinite(z := number(comparison, "unlearned", name))}
    if not known:
        return None
    bound = NormalDist().inv_cdf(1 - level / (2 * len(known)))
    left = [name for name, z in known.items() if z > bound]
    away = [name for name, z in known.items() if z < -bound]
    if left:
        opening = "There is evidence of the keys of forgotten recordings being left in the model"
        return Said("under", f"{opening} ({_listed(comparison, left, bound)}).", tuple(left), "strong")
    if away:
        opening = "There is evidence of over-forgetting: the model was pushed away from forgotten keys"
        return Said("over", f"{opening} ({_listed(comparison, away, bound)}).", tuple(away), "strong")
    shown, power = _listed(comparison, list(known), bound), _power(comparison)
    if power < FEWEST:
        reason = f"because the keys are hardly found in the original itself, {FEWEST:g} is needed"
        return Said("too little to tell", f"Too little to tell, {reason} ({shown}).", tuple(known), "none")
    sentence = f"The keys of forgotten recordings were not told apart by these tests from keys never heard ({shown})."
    return Said("within", sentence, tuple(known), "strong" if power >= MANY else "moderate")


def _power(comparison: Comparison) -> float:
    """Find how surely the keys are found in the original."""
    found = [number(comparison, "original", name) for name in KEYS]
    return max((z for z in found if math.isfinite(z)), default=0.0)


def _listed(comparison: Comparison, names: list[str], bound: float) -> str:
    said = [
        f"{name} {number(comparison, 'unlearned', name):.3g}, original {number(comparison, 'original', name):.3g}"
        for name in names
    ]
    return f"{'; '.join(said)}; within -{bound:.3g} to {bound:.3g} if never heard"
