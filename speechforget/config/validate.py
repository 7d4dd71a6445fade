"""Check a configuration before anything is decoded or trained: types, ranges, choices, and keys that have no effect."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.config.attribute import check_attribute
from speechforget.config.evaluation import buildable, check_evaluation
from speechforget.config.known_answers import check_known_answers
from speechforget.config.oracle import has_oracle
from speechforget.config.ranges import as_yaml, check_names, choice, number, whole
from speechforget.config.seconds import AUTO, LONGEST
from speechforget.config.steps import is_continued, step_configs, with_past
from speechforget.config.structured import check_kept_epochs, check_method_fits, check_sisa
from speechforget.config.transcripts import check_labels
from speechforget.data.requests.draw import share_of, share_range
from speechforget.data.requests.options import WAYS, counting, unused
from speechforget.errors import NotApplicable, UserError, nearest

MOST_THREADS = 1024
WITHOUT_CURRICULUM = {"curriculum_on": "both", "curriculum_strength": 10.0}  # defaults of conf/config.yaml
SHARES = {"test"}  # options of corpora that are shares of the recordings
WANDB = "speechforget.tracking.loggers.wandb_logger"
WANDB_CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": ("auto", "online", "offline"),
    "names": ("hashed", "open"),
    "audio": (True, False),
    "artifacts": ("none", "references", "files"),
}
PRECISIONS = ("32-true", "tf32-true", "64-true", "bf16-mixed", "16-mixed")


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for the first wrong value, NotApplicable for a key that has no effect beside the others."""
    check_folders(config)
    if not isinstance(config["plan"], bool):
        raise UserError(f"plan must be true or false, not {config['plan']!r}.")
    whole(config, "seed", 0)
    check_original(config)
    for step in step_configs(config):
        check_task(step)
    check_sequence(config)
    check_method(config["method"])
    check_dataset(config["dataset"])
    check_train(config["train"])
    check_kept_epochs(config)
    check_trainer(config["trainer"])
    choice(config, "lock", ("flock", "lease"))
    check_labels(config)
    check_known_answers(config)
    check_attribute(config)
    check_evaluation(config)
    check_delivered(config)
    check_method_fits(config)
    check_logger(config["logger"])


def check_logger(logger: Mapping[str, Any]) -> None:
    """Check the options of the trackers of this package; a user's own tracker checks its own."""
    if logger["_target_"] == WANDB:
        for name, known in WANDB_CHOICES.items():
            if name in logger:
                choice(logger, name, known, "logger.")


def check_folders(config: Mapping[str, Any]) -> None:
    """Check where files are written: an empty name would mean the current folder, or the root of the file system."""
    for name in ("output", "cache"):
        if not isinstance(config[name], str) or not config[name].strip():
            raise UserError(f"{name} must be the name of a folder, not {config[name]!r}.")


def check_task(config: Mapping[str, Any]) -> None:
    """Check the request as far as that needs no recordings; `select` checks the rest on the corpus."""
    task = config["task"]
    choice(task, "kind", ("class", "sample", "attribute"), "task.")
    whole(task, "seed", 0, "task.")
    if "balanced" in task:
        choice(task, "balanced", (True, False), "task.")
    _check_unused(config)
    keys = counting(task)
    if "number" in keys:
        whole(task, "number", 1, "task.")
    if "percent" in keys:
        share_of(task["percent"])
    for name in {"classes", "values"} & set(keys):
        check_names(f"task.{name}", task[name])
    if "share" in keys:
        share_range(task["share"])
    if "fewest" in keys and task["fewest"] is not None:
        whole(task, "fewest", 0, "task.")
    if "pattern" in keys:
        _check_pattern(task["pattern"])
    if "list" in keys and not task["balanced"]:
        raise UserError("Published requests are balanced: set task.balanced=true, or draw a request: task.by=random.")
    if "ids" in keys and task["ids"] is None:
        raise UserError("task.ids is not set: give a text file with one utterance id per line.")
    if "releases" in keys and not (isinstance(task["releases"], list | tuple) and len(task["releases"]) == 2):
        raise UserError("task.releases must be two tables of a corpus: what the second lacks is forgotten.")


def check_sequence(config: Mapping[str, Any]) -> None:
    """Check the keys of requests after one another."""
    task = config["task"]
    for name in {"keep_forget", "at_once"} & set(task):
        choice(task, name, (True, False), "task.")
    if task.get("requests") is not None:
        _check_unused(config)
    if task.get("keep_forget") and not is_continued(with_past(config)):
        raise NotApplicable(
            "task.keep_forget has no effect without earlier requests: set task.requests, original.result or task.after."
        )
    if task.get("at_once") and task.get("requests") is None:
        raise NotApplicable("task.at_once has no effect without task.requests: set both.")
    if not isinstance(task.get("after"), list | tuple | None):
        raise UserError(f"task.after must be a list of results, or of files with ids, not {task['after']!r}.")


def _check_unused(config: Mapping[str, Any]) -> None:
    """Refuse a key of the task that is set and has no effect."""
    task = config["task"]
    for name, default in unused(config).items():
        keys = counting(task)
        column = "" if (task["kind"], task.get("by")) in WAYS else ", a column,"
        asked = "task=class" if task["kind"] == "class" else f"task.by={task['by']}{column}"
        if task.get("requests") is not None:
            raise NotApplicable(f"task.{name} has no effect with task.requests: leave it at {as_yaml(default)}.")
        beside = f"{asked} and task.{keys[0]}" if task["kind"] == "class" or "values" in keys else asked
        *others, last = (f"task.{key}" for key in keys) if keys else (f"dataset.{task['by']}",)
        do = f"{', '.join(others)} and {last} do" if others else f"{last} does"
        raise NotApplicable(f"task.{name} has no effect with {beside}: {do}. Leave it at {as_yaml(default)}.")


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise UserError(f"task.pattern must be a regular expression over utterance ids, in quotes, not {pattern!r}.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"task.pattern={pattern} is not a regular expression ({error}): write one such as '/anna_'."
        ) from None


def check_defined(method: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    """Raise NotApplicable for a method that is not defined for the kind of request."""
    kinds = list(method["requests"])
    if task["kind"] not in kinds:
        why = f" ({method['reason']})" if method.get("reason") else ""
        raise NotApplicable(
            f"The method {method['name']} is not defined for {task['kind']} requests, "
            f"only for: {', '.join(kinds)}{why}."
        )


def check_method(method: Mapping[str, Any]) -> None:
    """Check that the numbers of a method are finite, its tried shares, and that no curriculum is set that is off."""
    for name, default in WITHOUT_CURRICULUM.items():
        if method.get("curriculum") is None and method.get(name, default) != default:
            raise NotApplicable(
                f"method.{name} has no effect without a curriculum: "
                f"set method.curriculum=superloss, or leave it at {default}."
            )
    lowest = 0 if str(method.get("_target_")).startswith("speechforget.") else -math.inf  # methods of others may differ
    for name, value in method.items():
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= lowest):
            raise UserError(f"method.{name} must be {'a number from 0 on' if lowest == 0 else 'finite'}, not {value}.")
    tried = method.get("tried") or {}
    if not isinstance(tried, Mapping):
        raise UserError(f"method.tried must be a mapping of class and sample to shares, or null, not {tried!r}.")
    for kind, ends in tried.items():
        _check_tried(kind, ends)


def _check_tried(kind: str, ends: Any) -> None:
    fits = (
        isinstance(ends, list | tuple)
        and len(ends) == 2
        and all(isinstance(end, int | float) for end in ends)
        and 0 <= ends[0] <= ends[1] <= 1
    )
    if ends is not None and not fits:
        raise UserError(
            f"method.tried.{kind} must be [lowest, highest], two shares of the training recordings from 0 to 1, "
            f"not {ends}."
        )


def check_original(config: Mapping[str, Any]) -> None:
    """Check where the original comes from, and whether the run has an oracle."""
    choice(config, "oracle", ("auto", "train", "none"))
    result = config["original"].get("result")
    if result is not None and not (Path(str(result)).expanduser() / "result.json").exists():
        raise UserError(f"original.result={result} is no result: give the folder that a run prints at its end.")
    if result is not None and config["original"]["checkpoint"] is not None:
        raise UserError("original.result and original.checkpoint are both set: start from one of them.")
    checkpoint, labels = config["original"]["checkpoint"], config["original"]["labels"]
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise UserError(f"original.checkpoint must be a folder, not {checkpoint!r}.")
    if labels is not None and checkpoint is None:
        raise UserError("original.labels names the outputs of original.checkpoint: set original.checkpoint, too.")
    if not isinstance(labels, (list, dict, type(None))):
        raise UserError(
            "original.labels must be a list of names, or a mapping of the checkpoint's names to the corpus's, "
            f"not {labels!r}."
        )


def check_delivered(config: Mapping[str, Any]) -> None:
    """Check which model is delivered, and which one alone is built."""
    choice(config, "deliver", ("unlearned", "oracle"))
    if config["deliver"] == "oracle" and not has_oracle(config):
        raise UserError("deliver=oracle needs a run with an oracle: set oracle=train, too.")
    if config["only"] is not None:
        check_only(config)


def check_only(config: Mapping[str, Any]) -> None:
    """Check that the run has the one model to build."""
    if config["only"] == "oracle" and not has_oracle(config):
        raise UserError("only=oracle needs a run with an oracle: set oracle=train, too.")
    choice(config, "only", tuple(buildable(config)))


def check_dataset(dataset: Mapping[str, Any]) -> None:
    """Check the keys that every corpus has."""
    whole(dataset, "sample_rate", 1000, "dataset.")
    if dataset["seconds"] != AUTO:
        number(dataset, "seconds", 0.01, LONGEST, "dataset.", f", or {AUTO}")
    number(dataset, "validation", 0, 0.9, "dataset.")
    number(dataset, "holdout", 0, 0.9, "dataset.")
    whole(dataset, "split_seed", 0, "dataset.")
    whole(dataset, "windows", 1, "dataset.")
    choice(dataset, "lengths", ("fixed", "bucketed"), "dataset.")
    choice(dataset, "cache", ("decoded", "none"), "dataset.")
    choice(dataset, "resident", ("host", "device"), "dataset.")
    choice(dataset, "copies", ("include", "ignore"), "dataset.")
    choice(dataset, "on_bad_audio", ("error", "skip"), "dataset.")
    check_corpus(dataset)


def check_corpus(dataset: Mapping[str, Any]) -> None:
    """Check the options of the chosen corpus: an experiment can set options of another corpus."""
    module, _, function = str(dataset["corpus"]["_target_"]).rpartition(".")
    try:
        known = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    except (ImportError, ValueError, AttributeError):  # building the corpus explains it
        return
    unknown = sorted(set(dataset["corpus"]) - {"_target_", *known})
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        there = nearest(unknown[0], set(known) - {"root", "label", "cache"})
        raise UserError(
            f"The dataset {dataset['name']} has no option dataset.corpus.{unknown[0]}: {there}; "
            "an experiment that sets it is for another dataset."
        )
    for name in SHARES & set(dataset["corpus"]) if module.startswith("speechforget.") else ():
        number(dataset["corpus"], name, 0, 1, "dataset.corpus.")


def check_train(train: Mapping[str, Any]) -> None:
    """Check the recipe of original and oracle."""
    whole(train, "epochs", 1, "train.")
    whole(train, "batch_size", 1, "train.")
    number(train, "learning_rate", 0, 100, "train.")
    number(train, "warmup", 0, 1e6, "train.")
    number(train, "label_smoothing", 0, 0.99, "train.")
    number(train, "margin", 0, 1, "train.")
    choice(train, "schedule", ("cosine", "linear", "constant"), "train.")
    check_sisa(train)


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the hardware."""
    choice(trainer, "accelerator", ("cpu", "gpu"), "trainer.")
    choice(trainer, "precision", PRECISIONS, "trainer.")
    whole(trainer, "threads", 1, "trainer.")
    if trainer["threads"] > MOST_THREADS:
        raise UserError(f"trainer.threads must be at most {MOST_THREADS}, not {trainer['threads']}.")
    choice(trainer, "compile", (True, False), "trainer.")
    if trainer["stacked"] != "auto":
        whole(trainer, "stacked", 1, "trainer.", ", or auto")
    whole(trainer, "devices", 1, "trainer.")
    whole(trainer, "nodes", 1, "trainer.")
