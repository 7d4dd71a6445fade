"""Numbers that a search found (`conf/tuned`), and what they may be used for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from speechforget.errors import UserError

logger = logging.getLogger(__name__)

GROUPS = {"task": "kind", "dataset": "name", "label": "label", "model": "name", "method": "name"}
INSTEAD = "leave `tuned` out, or find numbers for this run with scripts/tune.py"


def asked_for(config: Mapping[str, Any]) -> dict[str, str]:
    """What numbers are found for, beside the corpus: a run with another task, dataset, label, model or method refuses them."""
    return {group: config["dataset" if group == "label" else group][key] for group, key in GROUPS.items()}


def check_tuned(config: Mapping[str, Any], fingerprint: Callable[[], str] | None = None) -> None:
    """Raises UserError where numbers of conf/tuned are used for something else than they were found for (`tuned_for`, which they bring along).

    fingerprint: of the run's corpus; only asked where the numbers know theirs. Warns where the numbers that were found (`tuned_to`) are not used,
    or the method's other ones are not those that they were found beside (`tuned_from`).
    """
    found_for = dict(config.get("tuned_for") or {})
    corpus = found_for.pop("corpus", None)
    asked = asked_for(config)
    for group, found in found_for.items():
        if asked.get(group) != found:
            raise UserError(
                f"The numbers of `tuned` were found for {group}={found}, and this run has {group}={asked.get(group)}: {INSTEAD}."
            )
    if corpus is not None and fingerprint is not None and fingerprint() != corpus:
        raise UserError(
            f"The numbers of `tuned` were found on other recordings than those of this run: {INSTEAD}. ~tuned_for.corpus takes them all the same."
        )
    method, before, found_numbers = config["method"], config.get("tuned_from") or {}, config.get("tuned_to") or {}
    if replaced := [
        f"method.{name}={method.get(name)}, not {value}"
        for name, value in found_numbers.items()
        if method.get(name) != value
    ]:
        logger.warning("Numbers that `tuned` brings are replaced: %s.", ", ".join(replaced))
    searched = {*(method.get("tune") or ["learning_rate"]), *found_numbers}
    changed = [name for name, value in before.items() if name not in searched and method.get(name) != value]
    if changed:
        others = ", ".join(f"method.{name}={before[name]}, not {method.get(name)}" for name in changed)
        logger.warning(
            "The numbers of `tuned` were found beside other ones: %s. They may not be the best here.", others
        )
