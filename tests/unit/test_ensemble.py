"""The ensemble averages probabilities, rebuilds itself, and is a classifier like others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.stage_runs import MODEL, RATE

from speechforget.models.ensemble import Ensemble
from speechforget.models.folder import build_classifier, load_classifier, save_classifier

WAVES, LENGTHS = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)), torch.full((5,), 4000)


@pytest.fixture
def ensemble() -> Ensemble:
    torch.manual_seed(0)
    built = build_classifier({**MODEL, "members": [0, 2, 5]}, 3, RATE)
    assert isinstance(built, Ensemble)
    return built.eval()


def test_the_probabilities_are_the_mean_of_those_of_the_members(ensemble: Ensemble) -> None:
    with torch.no_grad():
        found, each = ensemble(WAVES, LENGTHS), [member(WAVES, LENGTHS) for member in ensemble.each]
    mean = torch.stack([output.logits.softmax(1) for output in each]).mean(0)
    assert torch.allclose(found.logits.softmax(1), mean, atol=1e-6)
    assert torch.allclose(found.logits.exp().sum(1), torch.ones(5), atol=1e-6)
    assert torch.equal(found.embedding, torch.cat([output.embedding for output in each], dim=1))


def test_equal_members_are_one_classifier(ensemble: Ensemble) -> None:
    for member in ensemble.each[1:]:
        member.load_state_dict(ensemble.each[0].state_dict())
    with torch.no_grad():
        assert torch.allclose(
            ensemble(WAVES, LENGTHS).logits, ensemble.each[0](WAVES, LENGTHS).logits.log_softmax(1), atol=1e-6
        )


def test_it_is_saved_and_loaded_with_the_numbers_of_its_shards(ensemble: Ensemble, tmp_path: Path) -> None:
    save_classifier(tmp_path, ensemble, {"model": MODEL, "labels": ["a", "b", "c"], "sample_rate": RATE})
    assert json.loads((tmp_path / "model.json").read_text())["model"]["members"] == [0, 2, 5]
    loaded, _ = load_classifier(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(WAVES, LENGTHS).logits, ensemble(WAVES, LENGTHS).logits)
    assert list(loaded.members) == ["0", "2", "5"]


def test_it_offers_what_attacks_ask_of_a_classifier(ensemble: Ensemble) -> None:
    features = ensemble.frontend(WAVES, LENGTHS, None)
    with torch.no_grad():
        assert torch.equal(ensemble(WAVES, LENGTHS, features=features).logits, ensemble(WAVES, LENGTHS).logits)
    assert ensemble.heard(features, LENGTHS).any()
    assert ensemble.padding_counts == ensemble.each[0].padding_counts
    names = {module: name for name, module in ensemble.named_modules()}
    layers = [names[layer] for layer in ensemble.layers()]
    assert layers[-1] == "members.5.head" and len(set(layers)) == len(layers)
    assert len(list(ensemble.head.parameters())) == 3 * len(list(ensemble.each[0].head.parameters()))
