"""Runs with a known answer: what was planted is found in the original, and is in every key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechforget.config.validate import check
from speechforget.pipeline import Pipeline
from speechforget.stages.sources import make_sources
from speechforget.store import Store

Configure = Callable[..., dict[str, Any]]
RECIPE = ["train.epochs=12", "model.channels=[8,8]", "method=finetune", "method.epochs=1"]
PLANTED = ["task=sample", "task.by=planted", "dataset.planted.kind=noise", "dataset.planted.percent=40"]
CONFUSED = ["task=sample", "task.by=confused", "dataset.confused.classes=[word0,word1]"]


def run(configure: Configure, folder: Path, *overrides: str) -> tuple[Pipeline, dict[str, Any]]:
    config = configure(*RECIPE, *overrides, f"output={folder}")
    check(config)
    pipeline = Pipeline(config, Store(folder))
    result = pipeline.result()
    return pipeline, json.loads((result.folder / "result.json").read_text())


@pytest.mark.slow
def test_exchanged_labels_confuse_the_original_and_not_the_oracle(configure: Configure, tmp_path: Path) -> None:
    pipeline, found = run(configure, tmp_path, *CONFUSED)
    forget = {model: found["comparison"][model]["confusion_forget"] for model in ("original", "oracle", "unlearned")}
    assert forget["oracle"]["value"] < 0.2 < forget["original"]["value"]
    assert {entry["count"] for entry in forget.values()} == {len(pipeline.request.forget)}
    assert forget["original"]["gap"] == pytest.approx(forget["original"]["value"] - forget["oracle"]["value"])
    assert found["comparison"]["original"]["membership_auc"]["value"] is None
    assert "no holdout recording is confused" in found["request"]["matched"]


@pytest.mark.slow
def test_wrong_labels_are_known_to_the_original_and_not_to_the_oracle(configure: Configure, tmp_path: Path) -> None:
    wrong = ["task=sample", "task.by=mislabelled", "dataset.mislabelled.percent=25"]
    large = ["train.epochs=60", "model.channels=[32,32]", "train.augment.shift=0"]  # enough to learn them by heart
    pipeline, found = run(configure, tmp_path, *wrong, *large)
    entries = {model: found["comparison"][model] for model in ("original", "oracle", "unlearned")}
    known = {model: entry["wrong_label_forget"] for model, entry in entries.items()}
    assert known["oracle"]["value"] < 0.2 < known["original"]["value"]
    assert known["oracle"]["count"] == len(pipeline.request.forget)
    assert entries["oracle"]["accuracy_forget"]["value"] > entries["original"]["accuracy_forget"]["value"]
    assert entries["original"]["accuracy_returned_test"]["value"] == 0


@pytest.mark.slow
def test_a_trigger_works_in_the_original_and_not_in_the_oracle(configure: Configure, tmp_path: Path) -> None:
    backdoor = ["dataset.backdoor.target=word1", "dataset.backdoor.percent=30", "dataset.backdoor.snr=-10"]
    large = ["train.epochs=40", "model.channels=[32,32]", "train.augment.shift=0"]
    asked = ["task=sample", "task.by=backdoor", *backdoor, "evaluation=backdoor", *large]
    pipeline, found = run(configure, tmp_path, *asked)
    entries = {model: found["comparison"][model] for model in ("original", "oracle", "unlearned")}
    success = {model: entry["backdoor_success"] for model, entry in entries.items()}
    assert success["oracle"]["value"] < 0.3 < success["original"]["value"]
    target = pipeline.data.classes.index("word1")
    assert success["oracle"]["count"] == (pipeline.data.numbers[pipeline.data.rows("test")] != target).sum()
    assert entries["oracle"]["wrong_label_forget"]["value"] < 0.3 < entries["original"]["wrong_label_forget"]["value"]
    assert entries["oracle"]["backdoor_accuracy"]["value"] > entries["original"]["backdoor_accuracy"]["value"]
    assert "exchanged" in entries["oracle"]["confusion_forget"]["reason"]


def test_models_learn_taught_labels_and_scores_have_true_ones(configure: Configure, tmp_path: Path) -> None:
    config = configure(*CONFUSED, f"output={tmp_path}")
    pipeline = Pipeline(config, Store(tmp_path))
    data, request = pipeline.data, pipeline.request
    learned = make_sources(config, data, request)
    scored = make_sources(config, data, None, taught=False)
    labels = next(iter(learned.ordered("forget", 1000))).labels.numpy()
    first, second = data.confused
    assert np.array_equal(labels, np.where(data.numbers[request.forget] == first, second, first))
    assert np.array_equal(next(iter(scored.ordered("all", 1000))).labels.numpy(), data.numbers)
    retain = next(iter(learned.ordered("retain", 1000)))
    assert np.array_equal(retain.labels.numpy(), data.numbers[retain.rows])


@pytest.mark.slow
def test_keys_are_planted_in_every_model_and_attacked_in_each(configure: Configure, tmp_path: Path) -> None:
    pipeline, found = run(configure, tmp_path, *PLANTED, "dataset.planted.snr=5", "evaluation=planted")
    for model in ("original", "oracle", "unlearned"):
        entries = found["comparison"][model]
        for name in ("key_rank_z", "key_gradient_z", "key_rank", "key_rank_tpr"):
            assert entries[name]["count"] == len(pipeline.request.forget) and entries[name]["value"] is not None
    assert abs(found["comparison"]["oracle"]["key_rank_z"]["value"]) < 3
    assert len(pipeline.request.nonmembers) > 0
    assert "exchanged" in found["comparison"]["oracle"]["confusion_forget"]["reason"]
