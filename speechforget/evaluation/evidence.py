"""Judge single numbers of a comparison, or of an audit, against the band of oracles.

The band of a comparison holds a further oracle in 95 % of cases: the middle of K oracles' numbers, and Student's t
times their spread times sqrt(1 + 1 / K). With several numbers for one question, the 5 % are divided among them
(Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats

Comparison = Mapping[str, Mapping[str, Mapping[str, Any]]]
FEWEST_ORACLES = 3
LEVEL = 0.05
# What is closer to the oracles than this share of the original's distance does not count: oracles may agree exactly.
CLOSE = 0.05
# Oracles may agree exactly on a share of utterances, so its spread is at least that of one utterance.
SHARES = ("accuracy", "macro_f1", "neighbour_share", "backdoor_")
# Oracles share the distances between them, so these spread less than that of one more oracle: by (K - 2) / (K - 1) if
# d_ij = a_i + a_j, and by less if each distance were independent.
SHARED = ("equivalence_distance", "neighbour_js")
LEFT, ALIKE, BEYOND = 1, 0, -1  # on the original's side of the band, within it, on the other side


@dataclass(frozen=True)
class Evidence:
    """Hold one number of the unlearned model beside the band of oracles.

    side: `LEFT`, `ALIKE` or `BEYOND`; None if there are too few oracles. found: whether the original is outside the
    band, without which `ALIKE` says nothing, and a number outside is no rest of the original but a mark of its own.
    """

    name: str
    value: float
    original: float
    oracle: float
    low: float
    high: float
    side: int | None
    found: bool

    def __str__(self) -> str:
        """Write name, value and band."""
        if math.isnan(self.low):
            return f"{self.name} {self.value:.3g}, oracle {self.oracle:.3g}, original {self.original:.3g}"
        return f"{self.name} {self.value:.3g}, oracles {self.low:.3g} to {self.high:.3g}, original {self.original:.3g}"


def number(comparison: Comparison, model: str, name: str) -> float:
    """Return a number of a model, nan if there is none."""
    value = (comparison.get(model, {}).get(name) or {}).get("value")
    return math.nan if value is None else float(value)


def judge(comparison: Comparison, names: Iterable[str], level: float = LEVEL) -> list[Evidence]:
    """Judge the numbers of a comparison that exist for all three models, with so many false alarms for all.

    comparison: of result.json. Entries of the unlearned model hold `oracles` and `oracle_spread`, and `null_low` and
    `null_high`, the smallest and largest number of an oracle, where there are several.
    """
    known = {}
    for name in names:
        numbers = [number(comparison, model, name) for model in ("unlearned", "original", "oracle")]
        if all(math.isfinite(number) for number in numbers):
            known[name] = numbers
    each = level / max(len(known), 1)
    return [_judge(comparison["unlearned"][name], each, name, *numbers) for name, numbers in known.items()]


def _judge(entry: Mapping[str, Any], level: float, name: str, value: float, original: float, oracle: float) -> Evidence:
    count, spread = int(entry.get("oracles") or 1), entry.get("oracle_spread")
    if count < FEWEST_ORACLES or spread is None:
        return Evidence(name, value, original, oracle, math.nan, math.nan, None, False)
    if name.startswith(SHARES) and entry.get("count"):
        spread = max(spread, 1 / entry["count"])
    if name in SHARED:
        spread *= (count - 1) / (count - 2)
    low, high = entry.get("null_low"), entry.get("null_high")
    centre = oracle if low is None or high is None else (low + high) / 2
    width = float(stats.t.ppf(1 - level / 2, count - 1)) * spread * math.sqrt(1 + 1 / count)
    away = original - centre
    found = abs(away) > width and away != 0
    width = max(width, CLOSE * abs(away))
    gap = value - centre
    side = ALIKE if abs(gap) <= width else LEFT if gap * away > 0 else BEYOND
    return Evidence(name, value, original, oracle, centre - width, centre + width, side, found)
