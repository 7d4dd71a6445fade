"""Declare the facts of the methods that edit the weights at once."""

from support.facts import F, Facts, R
from support.tiny import CLASSES

FACTS = {
    "ssd": Facts(
        cost=(0, F + R + F), faster={"alpha": 2.0, "dampening": 1.0}, variants=[({"importance": "sample"}, {})]
    ),
    "lfssd": Facts(cost=(0, F + R + F), faster={"alpha": 1.2}),
    "assd": Facts(cost=(0, F + R), forget="moves", faster={}),
    "fisher": Facts(
        cost=(0, CLASSES * R),
        forget="moves",
        faster={},
        variants=[({"information": "empirical"}, {"cost": (0, R)})],
    ),
    "influence": Facts(
        cost=(0, F + R + R),
        faster={"alpha": 100.0},
        variants=[({"samples": 10}, {"cost": (0, F + R + 10)})],
    ),
}
