"""Declare the facts of the methods that balance forget and retain within a step or between steps."""

import itertools
import math

from support.facts import E, F, Facts, R

MIX = F + round(0.3 * R)
STEPS = math.ceil(R / 4)


def forget_in(batches: int) -> int:
    """Count the forget utterances in this number of batches of four; forget starts again when it ends."""
    sizes = [min(4, F - start) for start in range(0, F, 4)]
    return sum(itertools.islice(itertools.cycle(sizes), batches))


FACTS = {
    "trew": Facts(
        cost=(1 + F + R + E * F, E * (F + R)),
        variants=[({"beta": 0.0, "batch_norm": "batch"}, {}), ({"beta": 5.0}, {})],
    ),
    "cola": Facts(
        cost=(1 + R + 3 * F, 3 * (F + R) + E * R),
        faster={"learning_rate": 0.02, "collapse_learning_rate": 0.02},
        variants=[({"collapse_epochs": 0}, {"cost": (1 + R, E * R), "forget": "moves"})],
    ),
    "negative_gradient": Facts(
        cost=(0, E * (R + forget_in(STEPS))),
        faster={"learning_rate": 0.02, "retain_weight": 0.5, "forget_weight": 0.5},
        variants=[({"retain_weight": 1.0, "forget_weight": 1.0, "clip": None, "batch_norm": "batch"}, {})],
    ),
    "munba": Facts(cost=(0, E * (R + F)), variants=[({"redraw": False, "batch_norm": "batch"}, {})]),
    "sfron": Facts(
        cost=(0, F + R + E * (R + forget_in(math.ceil(STEPS / 5)))),
        faster={"learning_rate": 0.03, "every": 2, "iterations": 20},
        variants=[
            (
                {"hard_mask": False, "every": 2, "blend": 0.7},
                {"cost": (0, F + R + E * (R + forget_in(math.ceil(STEPS / 2))))},
            ),
            ({"iterations": 3}, {"cost": (0, F + R + E * (12 + forget_in(1)))}),
        ],
    ),
    "lotus": Facts(
        cost=(E * (MIX + F), E * MIX),
        variants=[({"alpha": 1.0}, {"forget": "moves"})],
    ),
}
