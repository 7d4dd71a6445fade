"""Every attack on models: what it leaves as it was, and that no number depends on batches."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.planted import CLASSES, ROOT, Planted, build, corpus, listed, subject_of

from speechforget import explain
from speechforget.errors import UserError
from speechforget.evaluation.tables import Value

ATTACKS = sorted(path.stem for path in (ROOT / "speechforget" / "attacks").glob("*.py"))
ATTACKS = [name for name in ATTACKS if name not in {"__init__", "base"}]
KINDS = ("sample", "class", "speaker")
WIDTH = 24


def made(kind, seed=0, norm=True):
    """Return a subject with random features in which classes and voices are a little apart."""
    facts = corpus(kind)
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(len(facts["labels"]), WIDTH))
    features[np.arange(len(features)), facts["labels"]] += 2
    return subject_of(features, classifier=Planted(WIDTH, CLASSES, norm), **facts)


def state(classifier):
    tensors = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    return tensors, [module.training for module in classifier.modules()], list(classifier._forward_hooks)


def same(one, other):
    if math.isnan(one.value):
        return one == other or (math.isnan(other.value) and one.reason == other.reason)
    return one.value == pytest.approx(other.value, abs=1e-5) and one.count == other.count


def test_each_attack_has_a_file_and_an_entry():
    assert sorted(listed()) == ATTACKS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_numbers_or_reasons_and_leaves_everything_as_it_was(name, kind):
    subject, attack = made(kind), build(name)
    before = copy.deepcopy(state(subject.classifier))
    torch.manual_seed(3), np.random.seed(3)
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = attack(subject)
    assert torch.equal(torch.get_rng_state(), generators[0]) and (np.random.get_state()[1] == generators[1]).all()
    tensors, modes, hooks = state(subject.classifier)
    assert all(torch.equal(tensors[key], before[0][key]) for key in before[0]) and (modes, hooks) == before[1:]
    assert all(parameter.grad is None for parameter in subject.classifier.parameters())
    for key, value in found.items():
        assert isinstance(value, Value) and (math.isfinite(value.value) or value.reason), key
        assert explain.find(key).module == f"speechforget.attacks.{name}", key
        assert math.isnan(value.low) or value.low <= value.value <= value.high, key
        assert value.count > 0 or value.reason, key
    other = attack(replace(made(kind), batch_size=7))
    assert found.keys() == other.keys()
    assert not [key for key in found if not same(found[key], other[key])]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_another_model_or_without_holdout_and_speakers_has_the_same_names(name):
    subject = made("class", norm=False)
    none = np.zeros(0, dtype=np.int64)
    rows = {**subject.rows, **dict.fromkeys(("holdout", "nonmembers", "test", "validation"), none)}
    bare = build(name)(replace(subject, rows=rows, speakers=None))
    assert bare.keys() == build(name)(made("class")).keys()
    assert all(math.isfinite(value.value) or value.reason for value in bare.values())


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"probe"}))
def test_outputs_that_are_not_finite_are_no_result(name):
    subject = made("speaker")
    with torch.no_grad():
        subject.classifier.encoder.weight[0, 0] = math.nan
    try:
        found = build(name)(subject)
    except FloatingPointError:
        return
    assert all(value.reason for value in found.values())


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("probe", {"folds": 1}, "folds"),
        ("relearning", {"steps": 0}, "steps"),
        ("compression", {"bits": [1]}, "bits"),
        ("compression", {"pruning": [30]}, "pruning"),
        ("noise_ball", {"draws": 0}, "draws"),
        ("prototype", {"draws": 1.5}, "draws"),
        ("verification", {"most": "all"}, "most"),
    ],
)
def test_a_wrong_number_is_a_sentence(name, changes, said):
    with pytest.raises(UserError, match=said):
        build(name, **changes)
