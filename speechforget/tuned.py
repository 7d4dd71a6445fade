"""Numbers that a search found (`conf/tuned`), and what they may be used for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from speechforget.errors import UserError

logger = logging.getLogger(__name__)


def check_tuned(config: Mapping[str, Any]) -> None:
    """Raises UserError where numbers of conf/tuned are used for something else than they were found for (`tuned_for`, which they bring along).

    Warns where the method's other numbers are not those that they were found beside (`tuned_from`).
    """
    dataset = config["dataset"]
    asked = {
        "task": config["task"]["kind"],
        "dataset": dataset["name"],
        "label": dataset["label"],
        "model": config["model"]["name"],
        "method": config["method"]["name"],
    }
    for group, found in (config.get("tuned_for") or {}).items():
        if asked.get(group) != found:
            raise UserError(
                f"The numbers of `tuned` were found for {group}={found}, and this run has {group}={asked.get(group)}: "
                "leave `tuned` out, or find numbers for this run with scripts/tune.py."
            )
    method, before = config["method"], config.get("tuned_from") or {}
    searched = method.get("tune") or ["learning_rate"]
    changed = [name for name, value in before.items() if name not in searched and method.get(name) != value]
    if changed:
        others = ", ".join(f"method.{name}={before[name]}, not {method.get(name)}" for name in changed)
        logger.warning("The numbers of `tuned` were found beside other ones: %s. They may not be the best here.", others)
