"""Check keys, wrong labels and triggers (`dataset.planted`, `dataset.confused`, ...) against the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.ranges import check_names, choice, number, whole
from speechforget.data.requests.draw import share_of
from speechforget.data.requests.select import KNOWN_ANSWERS
from speechforget.errors import NotApplicable, UserError

SWITCH = {"planted": "kind", "confused": "classes", "mislabelled": "percent", "backdoor": "target"}  # null: off
OFF: Mapping[str, Mapping[str, Any]] = {  # defaults of conf/config.yaml for what is switched off
    "planted": {"percent": 8, "snr": 0, "seed": 0},
    "confused": {"percent": 50, "seed": 0},
    "mislabelled": {"seed": 0},
    "backdoor": {"percent": 5, "sound": "chirp", "seconds": 0.2, "snr": 5, "seed": 0},
}


def check_known_answers(config: Mapping[str, Any]) -> None:
    """Check requests with a known answer: one at most, and only for a request that asks for it."""
    dataset, task = config["dataset"], config["task"]
    for name in KNOWN_ANSWERS:
        if not isinstance(dataset[name], Mapping):
            raise UserError(f"dataset.{name} has keys of its own, such as dataset.{name}.percent: set those.")
    planted, confused = dataset["planted"], dataset["confused"]
    choice(planted, "kind", (None, "noise"), "dataset.planted.")
    number(planted, "snr", -30, 60, "dataset.planted.")
    if confused["classes"] is not None:
        check_names("dataset.confused.classes", confused["classes"])
    _check_backdoor(dataset)
    on = {name: dataset[name][switch] is not None for name, switch in SWITCH.items()}
    if len(both := [f"dataset.{name}" for name in on if on[name]]) > 1:
        raise UserError(f"{' and '.join(both)} are set, and a request has one known answer: unset all but one.")
    asked = task["by"] if task["kind"] == "sample" else None
    for name, how in KNOWN_ANSWERS.items():
        if on[name] or SWITCH[name] != "percent":
            share_of(dataset[name]["percent"], f"dataset.{name}.percent")
        whole(dataset[name], "seed", 0, f"dataset.{name}.")
        if asked == name and not on[name]:
            raise UserError(f"task.by={name} asks for recordings that this dataset lacks: {how}.")
        if on[name] and asked != name:
            raise NotApplicable(
                f"dataset.{name} is for the request task=sample task.by={name}: ask for that, or unset dataset.{name}."
            )
        for source in ("checkpoint", "result") if on[name] else ():
            if config["original"].get(source) is not None:
                raise UserError(
                    f"dataset.{name} changes what the original is trained on, and original.{source} is trained "
                    "already: unset one of them."
                )
        if on[name] and config["evaluation"]["pairs"]:
            raise UserError(
                f"dataset.{name} has one request with a known answer, and an audit draws requests of its own: "
                "set evaluation.pairs=0."
            )
    _check_off(dataset)


def _check_backdoor(dataset: Mapping[str, Any]) -> None:
    """Check the trigger: its target, its sound, and that a model hears all of it."""
    backdoor, path = dataset["backdoor"], "dataset.backdoor."
    target = backdoor["target"]
    if isinstance(target, list | tuple | Mapping):
        raise UserError(f"{path}target must be the name of one class, not {target}.")
    if target is not None:
        check_names(f"{path}target", target)
    choice(backdoor, "sound", ("chirp", "tones"), path)
    number(backdoor, "snr", -30, 60, path)
    number(backdoor, "seconds", 0.01, 10, path)
    heard = dataset["seconds"]
    if target is not None and isinstance(heard, int | float) and backdoor["seconds"] > heard:
        raise UserError(
            f"{path}seconds={backdoor['seconds']} is longer than what a model hears, dataset.seconds={heard}: "
            "set a shorter trigger."
        )


def _check_off(dataset: Mapping[str, Any]) -> None:
    """Refuse numbers of what is off."""
    for group, switch in SWITCH.items():
        for name, default in OFF[group].items() if dataset[group][switch] is None else ():
            if dataset[group][name] != default:
                raise NotApplicable(
                    f"dataset.{group}.{name} has no effect without dataset.{group}.{switch}: "
                    f"set that, or leave it at {default}."
                )
