"""Numbers that a search found, or a publication gives (`conf/tuned`): read them, and check that they fit the run.

One file holds the numbers of one corpus, label and model, nested by kind of request and method:

    tuned_for: {dataset: espeak, label: word, model: tcresnet}
    class:
      scrub:
        numbers: {learning_rate: 0.00141}
        objective: {best: 0.0, default: 0.0029}
        search: 20 trials by TPE, seed 0
        command: python scripts/tune.py method=scrub task=class dataset=espeak --trials 20
        beside: {epochs: 3, ...}
    not_better:
      class:
        munba: {numbers: {learning_rate: 0.001}, ...}

Numbers of a publication stand under `numbers` alone, with an empty `tuned_for` and a `source` beside it.

`hydra_plugins/speechforget_launcher/tuned_source.py` gives Hydra the entry of the run's own task and method.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from speechforget.errors import UserError

logger = logging.getLogger(__name__)

GROUPS = {"task": "kind", "dataset": "name", "label": "label", "model": "name", "method": "name"}
INSTEAD = "leave `tuned` out, or find numbers for this run with scripts/tune.py"
NOT_BETTER = "not_better"


def asked_for(config: Mapping[str, Any]) -> dict[str, str]:
    """Name the task, dataset, label, model and method of a run: numbers found for another one are refused."""
    return {group: config["dataset" if group == "label" else group][key] for group, key in GROUPS.items()}


def is_nested(content: Any) -> bool:
    """Tell whether a file of `tuned` holds entries by task and method, and not the numbers of one search alone."""
    return isinstance(content, Mapping) and "tuned_for" in content and "method" not in content


def entry_of(content: Mapping[str, Any], task: str, method: str) -> dict[str, Any] | None:
    """Give what a file of `tuned` adds to the config of a run with this task and method.

    `tuned_to` is empty where the search found nothing better than the default. None: the file has no such entry.
    Raises UserError for an entry without `numbers`.
    """
    named = {"tuned_for": {"task": task, "method": method}}
    if entry := _found(content, task, method):
        numbers = dict(entry["numbers"])
        return {**named, "method": numbers, "tuned_to": dict(numbers), "tuned_from": dict(entry.get("beside") or {})}
    return {**named, "tuned_to": {}} if _found(content.get(NOT_BETTER), task, method) else None


def _found(entries: Any, task: str, method: str) -> Mapping[str, Any] | None:
    of_task = entries.get(task) if isinstance(entries, Mapping) else None
    entry = of_task.get(method) if isinstance(of_task, Mapping) else None
    if entry is not None and not (isinstance(entry, Mapping) and isinstance(entry.get("numbers"), Mapping)):
        raise UserError(f"In the file of `tuned`, {task}.{method} must hold `numbers: {{NAME: VALUE}}`, not {entry}.")
    return entry


def check_tuned(config: Mapping[str, Any], fingerprint: Callable[[], str] | None = None) -> None:
    """Refuse numbers of `tuned` that were found for something else (`tuned_for`), and warn where they may not fit.

    fingerprint: gives the fingerprint of the run's corpus; called only where the file records one.
    Warns where numbers that the search found (`tuned_to`) are replaced, or where the method's other numbers differ
    from those during the search (`tuned_from`). Logs one line where the file holds no numbers for this run.
    Raises UserError.
    """
    if config.get("tuned"):
        raise UserError(
            "`tuned` must name a file in conf/tuned, my_conf/tuned or --config-dir, not in hydra.searchpath."
        )
    found_for = dict(config.get("tuned_for") or {})
    corpus = found_for.pop("corpus", None)
    asked = asked_for(config)
    for group, found in found_for.items():
        if asked.get(group) != found:
            raise UserError(
                f"The numbers of `tuned` were found for {group}={found}, "
                f"and this run has {group}={asked.get(group)}: {INSTEAD}."
            )
    if corpus is not None and fingerprint is not None and fingerprint() != corpus:
        raise UserError(
            f"The numbers of `tuned` were found on other recordings than those of this run: {INSTEAD}. "
            "~tuned_for.corpus uses them all the same."
        )
    if found_for:
        _warn(config, f"method={asked['method']} task={asked['task']}")


def _warn(config: Mapping[str, Any], run: str) -> None:
    method, before, found_numbers = config["method"], config.get("tuned_from") or {}, config.get("tuned_to")
    if found_numbers is None:
        logger.warning("`tuned` holds no numbers for %s: the method's own numbers are used.", run)
    elif not found_numbers:
        logger.info("The search of `tuned` found nothing better for %s: the method's own numbers are used.", run)
    replaced = {name: value for name, value in (found_numbers or {}).items() if method.get(name) != value}
    if replaced:
        logger.warning("Numbers of `tuned` are replaced: %s.", _compared(method, replaced))
    searched = {*(method.get("tune") or ["learning_rate"]), *(found_numbers or {})}
    changed = {name: value for name, value in before.items() if name not in searched and method.get(name) != value}
    if changed:
        logger.warning(
            "The search of `tuned` ran with other values: %s. The numbers found may not be the best here.",
            _compared(changed, {name: method.get(name) for name in changed}),
        )


def _compared(used: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(f"method.{name}={used.get(name)}, not {value}" for name, value in other.items())
