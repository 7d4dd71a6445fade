"""Check what a run on transcripts (`dataset.label=text`) allows: its model, method, metrics and request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.structured import sharded
from speechforget.data.requests.select import KNOWN_ANSWERS
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import NotApplicable, UserError

CLASS = "class"
CHOOSE = {  # kind of label -> a model and an evaluation that are for it
    TEXT: {"model": "quartznet", "evaluation": "transcripts"},
    CLASS: {"model": "tcresnet", "evaluation": "quick"},
}
OFF = {"margin": 0, "label_smoothing": 0}  # numbers of a recipe that need classes


def is_text(config: Mapping[str, Any]) -> bool:
    """Return whether models of a run write down what they hear."""
    return bool(config["dataset"]["label"] == TEXT)


def check_labels(config: Mapping[str, Any]) -> None:
    """Raise UserError for a model or an evaluation of another kind of label, NotApplicable for such a method."""
    kind = TEXT if is_text(config) else CLASS
    what = "transcripts" if kind == TEXT else "classes"
    start = ", or start from experiment=speech_recognition, which chooses all" if kind == TEXT else ""
    for group, fit in CHOOSE[kind].items():
        if kind not in config[group].get("labels", (CLASS,)):
            raise UserError(
                f"{group}={config[group]['name']} is not for {what}, and dataset.label={config['dataset']['label']} "
                f"asks for them: choose one that is, such as {group}={fit}{start}."
            )
    if kind not in config["method"].get("labels", (CLASS,)):
        raise NotApplicable(f"The method {config['method']['name']} is not defined for {what}.")
    if kind == TEXT:
        _check_text(config)


def _check_text(config: Mapping[str, Any]) -> None:
    dataset, train = config["dataset"], config["train"]
    if config["task"]["kind"] != "sample":
        raise UserError(f"task={config['task']['kind']} needs classes, and transcripts are none: choose task=sample.")
    for name, off in OFF.items():
        if train[name] != off:
            raise UserError(f"train.{name} needs classes, and transcripts are none: set train.{name}={off}.")
    if train["augment"]["shift"]:
        raise UserError("train.augment.shift would cut words that the transcript has: set train.augment.shift=0.")
    if dataset["windows"] != 1:
        raise UserError("dataset.windows cuts recordings, and a part has no transcript: set dataset.windows=1.")
    if sharded(config):
        raise UserError("train=sisa votes over classes, and transcripts are none: choose another recipe.")
    for name in KNOWN_ANSWERS:
        if config["task"].get("by") == name:
            raise UserError(f"task.by={name} is for classes: choose another request for transcripts.")
    if config["evaluation"]["attacks"]:
        raise UserError("Attacks on models are for classes: set evaluation.attacks=[] for transcripts.")
    if any(str(path).endswith(".zrf") for path in config["evaluation"].get("more_metrics", ())):
        raise UserError("zrf compares probabilities of classes: remove it from evaluation.more_metrics.")
