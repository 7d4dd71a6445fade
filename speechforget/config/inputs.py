"""Decide what is in the key of an artefact: every config leaf not listed here, and the code that computes its numbers.

docs/identity.md explains this to readers; scripts/code_table.py makes its table of modules.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.store import code_hash

# Config leaves (with all leaves below them) that change no number, or that are in every key by another name -> why.
UNCOUNTED = {
    "output": "a path",
    "cache": "a path",
    "lock": "how processes exclude each other",
    "plan": "builds nothing",
    "only": "where a run stops",
    "logger": "copies of results elsewhere",
    "launch": "where jobs run",
    "oracle": "a result contains the key of its oracle, or none",
    "original.checkpoint": "a path: the bytes of its files are in `checkpoint`",
    "original.result": "a path: the key of its model is in `continues`",
    "original.labels": "the names of the outputs are in `labels`",
    "task": "its utterances are in `without`, `forgotten`, `request` and `nonmembers`",
    "tuned_for": "compared with the run; a difference is an error",
    "tuned_from": "compared with the method; a difference is a warning",
    "tuned_to": "compared with the method; a difference is a warning",
    "dataset.name": "part of the folder name, before the key",
    "dataset.root": "a path: the recordings are in `corpus`",
    "dataset.corpus": "its whole table and all bytes are in `corpus`",
    "dataset.on_bad_audio": "the recordings that remain are in `corpus`",
    "dataset.cache": "the same samples, from another file",
    "dataset.resident": "the same samples, in other memory",
    "model.name": "part of the folder name, before the key",
    "model.labels": "allowed kinds of labels; which one a run has is in the key of its split",
    "train.name": "a name for readers",
    "method.name": "part of the folder name, before the key",
    "method.requests": "allowed requests; its numbers count through the keys that refer to them",
    "method.labels": "allowed kinds of labels, as of a model",
    "method.reason": "a sentence for readers",
    "method.tune": "the search space",
    "method.tried": "the condition of a warning",
    "evaluation.name": "a name for readers",
    "evaluation.labels": "allowed kinds of labels, as of a model",
    "trainer.accelerator": "changes rounding only",
    "trainer.devices": "changes rounding only",
    "trainer.nodes": "changes rounding only",
    "trainer.compile": "changes rounding only",
    "trainer.threads": "changes rounding only",
    "trainer.stacked": "changes rounding only: each model keeps draws and statistics of its own",
}
HEARING = ("sample_rate", "seconds", "lengths")  # keys of a dataset that decide the input of the classifier
WINDOWS = "windows"  # key of a dataset on which only scores depend


def decisive(group: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config group, such as `model`, without the leaves that change no number (UNCOUNTED)."""
    return {
        name: decisive(path, value)
        if isinstance(value, Mapping) and any(listed.startswith(f"{path}.") for listed in UNCOUNTED)
        else value
        for name, value in options.items()
        if (path := f"{group}.{name}") not in UNCOUNTED
    }


def dividing_choices(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a corpus is split: all keys of a dataset that no later stage counts."""
    return {name: value for name, value in decisive("dataset", dataset).items() if name not in {*HEARING, WINDOWS}}


class Code(NamedTuple):
    """The code that decides the numbers of a stage: `roots` and all their imports, except `stops` of other stages."""

    roots: tuple[str, ...]
    stops: tuple[str, ...]


def _code(roots: str, stops: str) -> Code:
    return Code(*(tuple(f"speechforget.{name}" for name in names.split()) for names in (roots, stops)))


# The keys of later stages contain the results of these: split, forgotten utterances, non-members.
_DIVIDED = "data.audio.cache data.split data.requests.select data.requests.pool config.evaluation "
_METHODS = "models.lora methods.base.switches "
_TRAINED = _code(
    "stages.train stages.train_many stages.build data.batches.augment",
    _DIVIDED + _METHODS + "stages.unlearn stages.importance_cache stages.score",
)
_UNLEARNED = _code(
    "stages.unlearn stages.build data.batches.augment methods.base.driver", _DIVIDED + "stages.train stages.score"
)
CODE = {
    "split": _code(
        "stages.split data.split data.audio.cache",
        "data.requests.select",
    ),
    "original": _TRAINED,
    "original of a checkpoint": _code("stages.import_checkpoint", _DIVIDED + _METHODS + "optimizers data.audio.files"),
    "oracle": _TRAINED,
    "importance": _UNLEARNED,
    "unlearned": _UNLEARNED,
    "scores": _code(
        "stages.score stages.build",
        _DIVIDED
        + _METHODS
        + "stages.train stages.sisa stages.unlearn stages.importance_cache training.loop optimizers",
    ),
    "untrained": _code(
        "stages.untrained",
        _DIVIDED + _METHODS + "stages.train stages.unlearn stages.importance_cache training.loop optimizers",
    ),
    "audit": _code(
        "stages.audit",
        "stages.split data.requests.select data.requests.pool config.evaluation config.inputs",
    ),
    "attack": _code("stages.attack", _DIVIDED + _METHODS),
    "power": _code(
        "stages.power evaluation.compare",
        "stages.audit stages.split data.requests.select data.requests.pool config.evaluation config.inputs",
    ),
    "sequence": _code(
        "stages.sequence stages.sequence_figures evaluation.sequence",
        "stages.split stages.maker data.requests.select data.requests.request "
        "config.evaluation config.inputs config.steps",
    ),
    "result": _code("stages.compare evaluation.compare evaluation.verdict", "stages.split data.requests.select"),
}


def code_of(stage: str, *targets: str) -> str:
    """Hash the code that computes the numbers of a stage.

    targets: dotted names of the model, method or metrics in the config. Raises UserError for a name without a module.
    """
    return code_hash(*CODE[stage].roots, *targets, stops=CODE[stage].stops)


def metrics_in(evaluation: Mapping[str, Any]) -> list[str]:
    """List the dotted names of all metrics of the group `evaluation`."""
    return [str(path) for part in ("metrics", "more_metrics") for path in evaluation.get(part, ())]


def targets_in(options: Any) -> Iterator[str]:
    """Yield every `_target_` of a config, at any depth."""
    if isinstance(options, Mapping):
        yield from [str(options["_target_"])] if "_target_" in options else []
        for value in options.values():
            yield from targets_in(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from targets_in(value)


@functools.cache
def version_of(stage: str) -> int:
    """Return `VERSION` of the module of a stage, read without importing it, which would import torch."""
    path = Path(__file__).parents[1] / "stages" / f"{stage}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "VERSION"
            and isinstance(node.value, ast.Constant)
        ):
            return int(node.value.value)  # type: ignore[arg-type]
    raise AssertionError(f"{path} has no VERSION")
