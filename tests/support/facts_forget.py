"""Declare the facts of the methods that shift boundaries, smooth outputs, or need no retain data."""

from support.facts import E, F, Facts, R

# AMUN attacks each utterance three times to bisect seven radii.
SEARCHES, STEPS = 3, 10
KEPT = round(0.3 * R)
FORGET = Facts(cost=(0, E * F))
DRAWS = 25
# UNSIR's noise_batch_size here.
NOISE = 4
# UNSIR for samples: steps of the noise, and the retain utterances of one pass over forget in batches of four.
NOISE_STEPS, PARTNERS = 5, 4 * -(-F // 4)
FACTS = {
    "delete": Facts(cost=(E * F, E * F), variants=[({"batch_norm": "train"}, {}), ({"batch_norm": "batch"}, {})]),
    "boundary_shrink": Facts(
        cost=(F, F + E * F),
        variants=[({"wrong_only": False, "bound": 3.0}, {"forget": "any"}), ({"batch_norm": "batch"}, {})],
    ),
    "boundary_expand": Facts(
        cost=(0, E * F), variants=[({"clip": 0.5, "optimizer": {"name": "sgd", "momentum": 0.9}}, {})]
    ),
    "jit": Facts(
        cost=(E * DRAWS * F, E * F),
        forget="moves",
        variants=[({"clamp": True, "reduction": "sum", "batch_norm": "batch"}, {})],
    ),
    "amun": Facts(
        cost=(SEARCHES * F, SEARCHES * STEPS * F + E * (F + R)),
        variants=[
            (
                {"retain": False, "radii": [0.1, 2.0], "steps": 3},
                {"cost": (2 * F, 2 * 3 * F + E * F), "forget": "moves"},
            )
        ],
    ),
    "unsir_samples": Facts(
        cost=(F, NOISE_STEPS * F + F + PARTNERS + R),
        # Noise teaches the labels of retain, which need not raise the loss on forget.
        forget="moves",
        variants=[
            (
                {"noise_steps": 0, "impair_epochs": 2, "repair_epochs": 0, "impair_batch_norm": "train"},
                {"cost": (2 * F, 2 * (F + PARTNERS)), "forget": "moves"},
            )
        ],
    ),
    "unsir": Facts(
        cost=(0, 40 * NOISE + -(-KEPT // 4) * NOISE + 3 * KEPT),
        # The noise learned on so small a problem resembles none of its utterances.
        forget="moves",
        faster={"impair_learning_rate": 0.02, "repair_learning_rate": 0.01},
        variants=[
            (
                {"order": "sequential", "copies": 3, "impair_epochs": 2, "impair_batch_norm": "train"},
                {"cost": (0, 40 * NOISE + 2 * 3 * NOISE + 4 * KEPT), "forget": "moves"},
            )
        ],
    ),
}
