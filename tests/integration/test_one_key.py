"""Over the whole pipeline: configs with equal keys give bit-equal artefacts, so different artefacts have two keys."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from speechforget import pipeline
from speechforget.config.inputs import UNCOUNTED
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, Store, key_of
from speechforget.store.difference import first_difference

CHOICES: dict[str, tuple[Any, Any]] = {
    "seed": (0, 1),
    "lock": ("flock", "lease"),
    "original.checkpoint": (None, "model"),
    "dataset.name": ("folder", "clinic"),
    "dataset.split_seed": (0, 1),
    "dataset.holdout": (0.2, 0.3),
    "dataset.validation": (0.1, 0.2),
    "dataset.copies": ("include", "ignore"),
    "dataset.cache": ("decoded", "none"),
    "dataset.resident": ("host", "device"),
    "dataset.on_bad_audio": ("error", "skip"),
    "dataset.seconds": (0.5, 0.4),
    "dataset.windows": (1, 2),
    "dataset.corpus.test": (0.2, 0.3),
    "model.name": ("tcresnet", "mine"),
    "model.tune": ("whole", "frozen"),
    "model.dropout": (0.3, 0.0),
    "train.name": ("default", "mine"),
    "train.learning_rate": (0.002, 0.01),
    "train.optimizer.name": ("adamw", "sgd"),
    "train.augment.noise": (0.3, 0.0),
    "train.augment.shift": (0.1, 0.0),
    "method.name": ("finetune", "mine"),
    "method.tune": (None, {"learning_rate": [1e-5, 1e-2]}),
    "method.learning_rate": (0.01, 0.02),
    "method.retain_share": (1.0, 0.5),
    "task.classes": (["word0"], ["word1"]),
    "trainer.precision": ("32-true", "64-true"),
    "trainer.compile": (False, False),
}
Make = Callable[[Mapping[str, int]], dict[str, Artefact]]


@pytest.fixture(scope="module")
def make(configure, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make({leaf: which of its two values}) -> the artefacts of a run, in an output folder of its own."""
    place = tmp_path_factory.mktemp("keys")
    base = configure(
        f"cache={place / 'cache'}", "train.epochs=1", "train.batch_size=64", "method=finetune", "method.epochs=1"
    )
    base["model"] |= {"_target_": "support.tuned_model.TunedModel", "channels": [4], "tune": "whole"}

    def made(chosen: Mapping[str, int]) -> dict[str, Artefact]:
        config = copy.deepcopy(base)
        for leaf, values in CHOICES.items():
            *groups, name = leaf.split(".")
            inside = config
            for group in groups:
                inside = inside[group]
            inside[name] = values[chosen.get(leaf, 0)]
        if config["original"]["checkpoint"] is not None:
            options = ("model.tune", "model.dropout", "trainer.precision")
            config["original"]["checkpoint"] = str(
                made({leaf: chosen.get(leaf, 0) for leaf in options})["original"].folder
            )
        config["output"] = str(place / key_of("run", json.loads(json.dumps(config)))[:16])
        run = Pipeline(config, Store.of(config))
        run.check_applicable()
        original = run.train("original")
        unlearned = run.unlearn(original)
        split = Artefact(next(Path(config["output"]).glob("split/*/DONE")).parent, run.data.key, built=False)
        return {
            "split": split,
            "original": original,
            "unlearned": unlearned,
            "scores": run.score("unlearned", unlearned),
        }

    return made


def check(make: Make, one: Mapping[str, int], other: Mapping[str, int]) -> None:
    try:
        first, second = make(one), make(other)
    except UserError:
        assume(False)
    for stage in first:
        difference = first_difference(first[stage].folder, second[stage].folder)
        assert difference is None or first[stage].key != second[stage].key, f"{stage}: {difference}"


LEAF = st.sampled_from(sorted(CHOICES))
SILENT = {leaf for leaf in CHOICES if leaf in UNCOUNTED and not leaf.startswith("original")}


def check_sets(make: Make, base: set[str], changed: set[str]) -> None:
    check(make, dict.fromkeys(base, 1), dict.fromkeys(base ^ changed, 1))


def test_another_holdout_is_another_unlearned_model_of_the_same_checkpoint(make: Make) -> None:
    check_sets(make, {"original.checkpoint"}, {"dataset.holdout"})


def test_what_changes_no_number_changes_neither_keys_nor_artefacts(make: Make) -> None:
    keys = [
        {stage: artefact.key for stage, artefact in make(dict.fromkeys(chosen, 1)).items()} for chosen in ((), SILENT)
    ]
    assert keys[0] == keys[1]
    check_sets(make, set(), SILENT)


@pytest.mark.nightly
@settings(max_examples=150)
@given(st.sets(LEAF, max_size=3), st.sets(LEAF, min_size=1, max_size=2))
def test_configs_with_one_key_give_equal_artefacts(make: Make, base: set[str], changed: set[str]) -> None:
    check_sets(make, base, changed)


def test_a_leaf_that_is_dropped_from_the_keys_is_found(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The property fails where the pipeline forgets an option of the model."""
    whole = pipeline.decisive
    monkeypatch.setattr(
        pipeline,
        "decisive",
        lambda group, options: {name: value for name, value in whole(group, options).items() if name != "tune"},
    )
    with pytest.raises(AssertionError, match=r"original: curves\.csv: line 2, column train/loss was "):
        check_sets(make, {"seed"}, {"model.tune"})
