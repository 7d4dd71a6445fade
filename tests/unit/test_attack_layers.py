"""The layers of every model are read as vectors of the channels, in one forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.encoders import FAMILIES, RATE, build, composed
from support.planted import build as build_attack
from support.planted import corpus, subject_of
from torch import nn

from speechforget.attacks.common.layers import layer_features
from speechforget.models.folder import build_classifier

CLASSES = 3
PLAIN = {
    "tcresnet": {"stem": 96, "blocks_1": 192},
    "bcresnet": {"stem": 16, "blocks_11": 20, "tail": 32},
    "kwt": {"tokens": 64, "blocks_11": 64},
    "m5": {"stages_3": 512},
    "matchboxnet": {"blocks_0": 128, "blocks_1": 64},
    "x_vector": {"frames_4": 1500, "segments_1": 512},
}


def plain(name: str) -> nn.Module:
    return build_classifier({**composed(name)}, CLASSES, RATE)


def features_of(classifier: nn.Module) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    role = np.array(["forget", "retain", "holdout"])
    subject = subject_of(0.1 * draw.normal(size=(3, RATE)), np.array([0, 1, CLASSES - 1]), role, classifier)
    return layer_features(subject, np.arange(3))


def check(classifier: nn.Module) -> dict[str, Any]:
    found = features_of(classifier)
    names = {module: name.replace(".", "_") for name, module in classifier.named_modules()}
    called = [names[layer] for layer in classifier.layers() if names[layer] in found]  # type: ignore[operator]
    assert list(found) == [*called[:-1], "embedding", "head"]
    for name, values in found.items():
        assert len(values) == 3 and values.ndim == 2 and values.shape[1] > 1 and np.ptp(values, axis=0).max() > 0, name
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_a_layer_has_a_feature_for_each_channel(name: str) -> None:
    classifier = plain(name).eval()
    found = check(classifier)
    assert len(found) == len(classifier.layers()) + 1  # type: ignore[operator]
    assert {layer: found[layer].shape[1] for layer in PLAIN[name]} == PLAIN[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_has_features_too(name: str) -> None:
    found = check(build(name, CLASSES).eval())
    assert len(found) >= 5


def test_all_layers_and_questions_cost_one_pass_over_each_utterance() -> None:
    facts = corpus("class")
    seen: list[int] = []
    subject = subject_of(np.random.default_rng(0).normal(size=(len(facts["labels"]), 8)), **facts)
    subject.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    build_attack("probe")(subject)
    asked = np.unique(np.concatenate([subject.rows[name] for name in ("forget", "holdout", "test")]))
    assert sum(seen) == len(asked)
