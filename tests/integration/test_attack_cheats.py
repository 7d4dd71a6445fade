"""Imitations of unlearning, made from a trained model, are caught by attacks on models; oracles are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.cheats import CHEATS
from support.planted import ROOT, build

from speechforget.models.folder import load_classifier
from speechforget.pipeline import Pipeline
from speechforget.stages.attack import make_subject
from speechforget.store import Store

SMALL = ["dataset.corpus.voices=12", "dataset.corpus.renderings=6", "train.epochs=10", "logger=none"]
ORACLES = ("oracle", "oracle-seed1")
CATCHES = ("probe_label_forget_max", "probe_label_nats", "prototype_5_accuracy", "relearn_5_area")


def attacked(subject) -> dict[str, float]:
    found = build("probe")(subject) | build("prototype")(subject) | build("relearning", shots=[5], draws=1)(subject)
    return {name: value.value for name, value in found.items()}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """An original of ten words, and two oracles without one of them."""
    output = f"output={tmp_path_factory.mktemp('cheats')}"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["task=class", "evaluation.oracles=2", output, *SMALL])
    config = OmegaConf.to_container(composed, resolve=True)
    pipeline = Pipeline(config, Store.of(config))

    def made(name: str):
        classifier, _ = load_classifier(Path(pipeline.train(name).folder))
        return make_subject(classifier, pipeline.config, pipeline.data, pipeline.request)

    return {name: made(name) for name in ("original", *ORACLES)}


@pytest.mark.slow
def test_a_head_that_forgets_over_an_encoder_that_does_not_is_caught(subjects) -> None:
    original = subjects["original"]
    oracles = [attacked(subjects[name]) for name in ORACLES]
    forget, retain = original.rows["forget"], original.rows["retain"]
    found = {}
    for cheat in CHEATS:
        subject = replace(original, classifier=cheat(original), _kept={})
        # By its answers the cheat is an oracle.
        assert subject.right(forget).mean() == 0 and subject.right(retain).mean() > 0.9, cheat.__name__
        found[cheat.__name__] = attacked(subject)
    models = {"original": attacked(original), **dict(zip(ORACLES, oracles, strict=True)), **found}
    print("\n", *models)  # pytest -s shows the table of docs/attacks.md
    for catch in CATCHES:
        print(catch, *(f"{values[catch]:.3f}" for values in models.values()))
    for name, values in found.items():
        for catch in CATCHES[:3]:
            worst = max(oracle[catch] for oracle in oracles)
            assert values[catch] > worst, (name, catch)
