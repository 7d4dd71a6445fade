"""Declare the facts of the methods that remove an attribute."""

from support.facts import E, F, Facts, R

READ = 4 + F + R  # the first batch gives the centre

FACTS = {
    "leace": Facts(cost=(READ, 0), forget="moves", faster={}, variants=[({"balanced": True}, {})]),
    "eta_removal": Facts(cost=(READ, 0), forget="moves", faster={}, variants=[({"balanced": True}, {})]),
    "gradient_reversal": Facts(
        cost=(READ, E * (F + R)), forget="moves", faster={}, variants=[({"balanced": True, "strength": 0.0}, {})]
    ),
}
