"""Check a request for an attribute, and the dependence that `dataset.dependent` plants for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.ranges import number, whole
from speechforget.config.structured import sharded
from speechforget.data.requests.attribute import KIND
from speechforget.errors import NotApplicable, UserError

OFF = {"percent": 90, "seed": 0}  # defaults of conf/config.yaml
PROBE = "speechforget.attacks.probe.Probe"
OURS = "speechforget.attacks."


def removed(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the attribute that a request removes, for keys; nothing for a request of recordings."""
    task = config["task"]
    return {KIND: str(task["by"])} if task["kind"] == KIND else {}


def check_attribute(config: Mapping[str, Any]) -> None:
    """Raise UserError for a wrong value, NotApplicable for what is not defined for an attribute."""
    task, dependent = config["task"], config["dataset"]["dependent"]
    if not isinstance(dependent, Mapping):
        raise UserError("dataset.dependent has keys of its own, such as dataset.dependent.column: set those.")
    whole(dependent, "seed", 0, "dataset.dependent.")
    number(dependent, "percent", 0.01, 99.99, "dataset.dependent.")
    _check_dependent(task, dependent)
    if task["kind"] != KIND:
        return
    if task["by"] == config["dataset"]["label"]:
        raise NotApplicable(
            f"task.by={task['by']} is the label, which must stay: choose another column, or forget whole classes with "
            "task=class."
        )
    evaluation = config["evaluation"]
    if evaluation["pairs"]:
        raise NotApplicable(
            "An audit by pairs exchanges recordings, and a request for an attribute forgets none: "
            "set evaluation.pairs=0."
        )
    for options in evaluation["attacks"]:
        target = str(options["_target_"]) if isinstance(options, Mapping) and "_target_" in options else ""
        if target.startswith(OURS) and target != PROBE:
            raise NotApplicable(
                f"The attack {target.rpartition('.')[2]} asks for forgotten recordings or classes, and a request for "
                "an attribute has none: choose evaluation=attribute."
            )
    if sharded(config):
        raise NotApplicable(
            "train=sisa retrains what held a recording, and an attribute is in all of them: use another recipe."
        )
    if task.get("requests") is not None or task.get("after"):
        raise NotApplicable("A request for an attribute stands alone: ask for one request, of one original.")
    if config["original"].get("result") is not None:
        raise NotApplicable("A request for an attribute stands alone: unset original.result.")


def _check_dependent(task: Mapping[str, Any], dependent: Mapping[str, Any]) -> None:
    column = dependent["column"]
    if column is None:
        for name, default in OFF.items():
            if dependent[name] != default:
                raise NotApplicable(
                    f"dataset.dependent.{name} has no effect without dataset.dependent.column: set that, or leave it "
                    f"at {default}."
                )
    elif (task["kind"], task.get("by")) != (KIND, column):
        raise NotApplicable(
            f"dataset.dependent is for the request task=attribute task.by={column}: ask for that, or unset "
            "dataset.dependent.column."
        )
