"""Declare the facts of the methods that train on retain only, and of two controls."""

from support.facts import E, F, Facts, R

SCHEDULE = {"schedule": "cosine", "minimum": 1e-4}
RESTARTS = {"schedule": "restarts", "minimum": 1e-4}
FACTS = {
    "l1_sparse": Facts(
        cost=(0, E * R),
        forget="moves",
        variants=[
            ({"epochs_without": 1, "clip": 0.5}, {}),
            ({"optimizer": {"name": "sgd", "momentum": 0.9}, "batch_norm": "frozen"}, {}),
        ],
    ),
    "cf_k": Facts(
        cost=(0, E * R),
        forget="moves",
        variants=[({"k": 1, **RESTARTS}, {}), ({"k": 1, "frozen_batch_norm": "train"}, {})],
    ),
    "eu_k": Facts(cost=(0, E * R), variants=[({"k": 1, **RESTARTS}, {}), ({"k": 2, "reset_norms": True}, {})]),
    "negate_layer": Facts(
        cost=(1, E * R),
        forget="moves",
        variants=[({"layers": ["head", "conv"], **SCHEDULE}, {}), ({"negate_mean": False, "batch_norm": "frozen"}, {})],
    ),
    "msg": Facts(
        cost=(0, 2 * F + E * R),
        forget="moves",
        variants=[
            ({"schedule": "constant", "kept_factor": 1.0, "optimizer": {"name": "adamw"}}, {}),
            ({"reset_share": 1.0}, {}),
        ],
    ),
    "kernel_reversal": Facts(cost=(0, E * R), forget="moves", variants=[({"schedule": "linear"}, {})]),
    "noise": Facts(cost=(0, 0), forget="moves", faster={}, variants=[({"match": 0.5}, {})]),
    "rewind": Facts(
        cost=(0, E * R),
        forget="moves",
        faster={},
        variants=[({"epochs": None, "epochs_back": 3}, {"cost": (0, 3 * R)})],
    ),
    "clipped_noise": Facts(
        cost=(R, (E + 10) * R),
        forget="moves",
        faster={},
        variants=[({"repair_epochs": 0, "decay": 10.0, "learning_rate": 0.01}, {"cost": (R, E * R)})],
    ),
    "sisa": Facts(cost=(0, R), forget="moves", faster={}),
    "head_only": Facts(cost=(0, E * F)),
}
