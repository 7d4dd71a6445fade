"""Declare the facts of the classic methods, and of `none`."""

from support.facts import E, F, Facts, R

MIX = F + round(0.3 * R)
FACTS = {
    "none": Facts(cost=(0, 0), forget="same", faster={}),
    "finetune": Facts(cost=(0, E * R), forget="moves"),
    "gradient_ascent": Facts(cost=(0, E * F), variants=[({"batch_norm": "batch"}, {})]),
    "random_label": Facts(cost=(0, E * (F + R)), variants=[({"order": "sequential", "redraw": False}, {})]),
    "salun": Facts(
        cost=(0, E * (F + R) + F),
        variants=[
            ({"order": "sequential"}, {}),
            ({"optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}}, {}),
        ],
    ),
    "scrub": Facts(
        cost=(E * R + F, E * R + F),
        variants=[
            ({"rewind": True}, {"cost": (E * R + F + (E + 1) * F + 7, E * R + F), "forget": "any"}),
            ({"forget_batch_norm": "train", "clip": 0.5}, {}),
        ],
    ),
    "bad_teaching": Facts(cost=(E * 2 * MIX, E * MIX)),
    "bad_teaching_light": Facts(cost=(E * MIX, E * MIX), variants=[({"temperature": 3.0, "batch_norm": "batch"}, {})]),
}
