"""What is in the key of an artefact: every leaf of the config that is not listed here, and the code that computes its numbers.

docs/identity.md tells readers the same; its table of modules is made by scripts/code_table.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from speechforget.store import code_hash

# Leaves of the config that change no number, or whose effect is in every key by another name, with all below them: why.
UNCOUNTED = {
    "output": "a place",
    "cache": "a place",
    "lock": "keeps processes apart",
    "plan": "builds nothing",
    "only": "says where to stop",
    "logger": "a mirror",
    "launch": "says where jobs run",
    "oracle": "whether there is an oracle: a result holds its key, or none",
    "original.checkpoint": "a place: the bytes of its files are in `checkpoint`",
    "original.labels": "what the outputs are called is in `labels`",
    "task": "which utterances it names is in `without`, `forgotten`, `request` and `nonmembers`",
    "tuned_for": "is compared with the run, and refused where it differs",
    "tuned_from": "is compared with the method, and warned of where it differs",
    "tuned_to": "is compared with the method, and warned of where it differs",
    "dataset.name": "words in front of the key",
    "dataset.root": "a place: what lies there is in `corpus`",
    "dataset.corpus": "the whole table that it makes, and all bytes, are in `corpus`",
    "dataset.on_bad_audio": "the recordings that are left are in `corpus`",
    "dataset.cache": "the same samples, read from elsewhere",
    "dataset.resident": "the same samples, in other memory",
    "model.name": "words in front of the key",
    "train.name": "words for readers",
    "method.name": "words in front of the key",
    "method.requests": "what may be asked; a number of it counts where it is referred to",
    "method.reason": "a sentence",
    "method.tune": "what a search tries",
    "method.tried": "requests that a warning goes by",
    "metrics.name": "words for readers",
    "trainer.accelerator": "changes rounding only",
    "trainer.devices": "changes rounding only",
    "trainer.nodes": "changes rounding only",
    "trainer.compile": "changes rounding only",
    "trainer.threads": "changes rounding only",
}
HEARING = ("sample_rate", "seconds", "lengths")  # of a dataset: what the classifier is given of a recording
WINDOWS = "windows"  # of a dataset: what only scores depend on


def decisive(group: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A group of the config, such as `model`, without what changes no number (UNCOUNTED)."""
    return {
        name: decisive(place, value)
        if isinstance(value, Mapping) and any(listed.startswith(f"{place}.") for listed in UNCOUNTED)
        else value
        for name, value in options.items()
        if (place := f"{group}.{name}") not in UNCOUNTED
    }


def dividing_choices(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how a corpus is divided: all of a dataset that is not counted later."""
    return {name: value for name, value in decisive("dataset", dataset).items() if name not in {*HEARING, WINDOWS}}


class Code(NamedTuple):
    """What decides a stage's numbers: modules with all that they import, but for `stops`, which belong to other stages."""

    roots: tuple[str, ...]
    stops: tuple[str, ...]


def _code(roots: str, stops: str) -> Code:
    return Code(*(tuple(f"speechforget.{name}" for name in names.split()) for names in (roots, stops)))


_DIVIDED = "data.audio.cache data.split data.requests.select "  # what these decided is in the keys of later stages: split, forgotten utterances, non-members
_METHODS = "models.lora methods.base.switches "
_TRAINED = _code(
    "stages.train stages.build data.batches.augment",
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
        _DIVIDED + _METHODS + "stages.train stages.unlearn stages.importance_cache training.loop optimizers",
    ),
    "result": _code("stages.compare evaluation.compare", "stages.split data.requests.select"),
}


def code_of(stage: str, *targets: str) -> str:
    """Hash of the code that computes a stage's numbers. targets: dotted names of the model, method or metrics that the config chose.

    Raises UserError for a name behind which there is no module.
    """
    return code_hash(*CODE[stage].roots, *targets, stops=CODE[stage].stops)


def targets_in(options: Any) -> Iterator[str]:
    """Every `_target_` in a config, at whatever depth."""
    if isinstance(options, Mapping):
        yield from [str(options["_target_"])] if "_target_" in options else []
        for value in options.values():
            yield from targets_in(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from targets_in(value)
