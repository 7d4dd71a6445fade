"""Set the options that every method with passes accepts besides its own numbers.

| switch              | meaning                                                                                        |
|---------------------|------------------------------------------------------------------------------------------------|
| curriculum          | `superloss`: easy utterances weigh more (`common/superloss.py`), with `curriculum_on` and      |
|                     | `curriculum_strength`                                                                          |
| trainable           | `all`; `head`: the last layer only; `lora`: low-rank updates of a transformer's attention, and |
|                     | its head                                                                                       |
| retain_share        | the share of retain utterances that the method may use; the same utterances in the whole run   |
| learning_rate_steps | the number of steps for which the learning rates are meant; each rate is multiplied by this    |
|                     | number over the run's own number of steps                                                      |
| optimizers          | `one`; `two`: forget steps and retain steps have momentum and moments of their own             |
|                     | (`two_optimizers.py`)                                                                          |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from speechforget.errors import NotApplicable, UserError, nearest
from speechforget.methods.base.method import Method, Pass
from speechforget.methods.common.superloss import Curriculum, is_number

SWITCHES: Mapping[str, Any] = {
    "curriculum": None,
    "curriculum_on": "both",
    "curriculum_strength": 10.0,
    "trainable": "all",
    "retain_share": 1.0,
    "learning_rate_steps": None,
    "optimizers": "one",
}
TRAINABLE = ("all", "head", "lora")
OPTIMIZERS = ("one", "two")
CURRICULA = ("superloss",)


def equip(method: Method, options: Mapping[str, Any]) -> Method:
    """Set the switches of a method and return it.

    options: some or all of SWITCHES.
    Raises UserError for an invalid value, and NotApplicable for a switch of training if the method has no passes.
    """
    chosen = {**SWITCHES, **options}
    if chosen["curriculum"] not in (None, *CURRICULA):
        raise UserError(
            f"There is no method.curriculum={chosen['curriculum']}: {nearest(str(chosen['curriculum']), CURRICULA)}"
        )
    if chosen["trainable"] not in TRAINABLE:
        raise UserError(
            f"There is no method.trainable={chosen['trainable']}: {nearest(str(chosen['trainable']), TRAINABLE)}"
        )
    if chosen["optimizers"] not in OPTIMIZERS:
        raise UserError(
            f"There is no method.optimizers={chosen['optimizers']}: {nearest(str(chosen['optimizers']), OPTIMIZERS)}"
        )
    # Validate these options even when the curriculum is off.
    Curriculum(chosen["curriculum_strength"], chosen["curriculum_on"])
    if not is_number(chosen["retain_share"]) or not 0 < chosen["retain_share"] <= 1:
        raise UserError(f"method.retain_share must be above 0 and at most 1, not {chosen['retain_share']}.")
    steps = chosen["learning_rate_steps"]
    if steps is not None and not (is_number(steps) and 0 < steps < math.inf):
        raise UserError(f"method.learning_rate_steps must be a number of steps above 0, or null, not {steps}.")
    if not method.passes():
        for name in ("curriculum", "trainable", "learning_rate_steps", "optimizers"):
            if chosen[name] != SWITCHES[name]:
                raise NotApplicable(
                    f"method.{name} is for methods that train, and {type(method).__name__} edits the weights at once."
                )
    if chosen["optimizers"] == "two" and not _in_turns(method.passes()):
        raise NotApplicable(
            "method.optimizers=two is for methods that alternate forget steps and retain steps, and no step of "
            f"{type(method).__name__} follows one of the other kind with these options: use one."
        )
    method.optimizers = chosen["optimizers"]
    method.trainable, method.retain_share = chosen["trainable"], float(chosen["retain_share"])
    method.learning_rate_steps = None if steps is None else float(steps)
    if chosen["curriculum"]:
        method.curriculum = Curriculum(chosen["curriculum_strength"], chosen["curriculum_on"])
    return method


def _in_turns(plan: Sequence[Pass]) -> bool:
    """Return whether one optimiser would carry its state from forget steps to retain steps, or back."""
    if not all(current.halves for current in plan):
        return False
    held: set[str] = set()
    for current in plan:
        held = {*([] if current.fresh_optimizer else held), *current.halves}
        if len(held) == 2:
            return True
    return False
