"""Facts of the methods that weigh forget and retain against each other in a step or from step to step."""

import itertools
import math

from support.facts import E, F, Facts, R

MIX = F + round(0.3 * R)
STEPS = math.ceil(R / 4)


def heard(batches: int) -> int:
    """Forget utterances in so many batches of four, in a pass in which forget starts again when it ends."""
    sizes = [min(4, F - start) for start in range(0, F, 4)]
    return sum(itertools.islice(itertools.cycle(sizes), batches))


FACTS = {
    "negative_gradient": Facts(
        cost=(0, E * (R + heard(STEPS))),
        faster={"learning_rate": 0.02, "retain_weight": 0.5, "forget_weight": 0.5},
        variants=[({"retain_weight": 1.0, "forget_weight": 1.0, "clip": None, "batch_norm": "batch"}, {})],
    ),
    "munba": Facts(cost=(0, E * (R + F)), variants=[({"redraw": False, "batch_norm": "batch"}, {})]),
    "sfron": Facts(
        cost=(0, F + R + E * (R + heard(math.ceil(STEPS / 5)))),
        faster={"learning_rate": 0.03, "every": 2, "iterations": 20},
        variants=[
            (
                {"hard_mask": False, "every": 2, "blend": 0.7},
                {"cost": (0, F + R + E * (R + heard(math.ceil(STEPS / 2))))},
            ),
            ({"iterations": 3}, {"cost": (0, F + R + E * (12 + heard(1)))}),
        ],
    ),
    "lotus": Facts(
        cost=(E * (MIX + F), E * MIX),
        variants=[({"alpha": 1.0}, {"forget": "moves"})],
    ),
}
