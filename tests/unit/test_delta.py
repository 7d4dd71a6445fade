"""A delta turns an original into the unlearned model, is small, and is taken off without a trace."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.encoders import CLASSES, build, described, lively, noise, options, relative
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.export import delta
from speechforget.export.model_folder import Export, _make
from speechforget.export.source import Source, Unsupported
from speechforget.inference import load
from speechforget.models.delivered import Model
from speechforget.models.folder import load_classifier, save_classifier
from speechforget.models.lora import adapt, low_rank, settled
from speechforget.store import Store, write_json
from speechforget.store.names import LOW_RANK

NAME = "wav2vec2_base"
RATE = 16000


def original(name: str = NAME) -> Any:
    return lively(build(name)).eval()


def unlearned(base: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Move low-rank updates and head as training does, then merge; gives the updates, too."""
    student = copy.deepcopy(base)
    adapt(student, "lora", 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (each for each in student.parameters() if each.requires_grad):
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    factors = low_rank(student)
    return settled(student, "lora").eval(), factors


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: Mapping[str, Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["wav2vec2_base", "torchaudio_bundle", "whisper_tiny", "ast"])
def test_adding_gives_the_unlearned_logits_and_taking_off_the_bits_of_the_base(name: str) -> None:
    base = original(name)
    goal, factors = unlearned(base)
    before, inputs = bits(base), noise(RATE, 9000, 5000)
    found = delta.difference(base.state_dict(), goal.state_dict(), factors)
    assert len(found.low_rank) == len(factors) // 2 == 4, "queries and values of two layers"
    assert found.difference and all("encoder" not in each for each in found.difference)
    plain, expected = base(*inputs).logits, goal(*inputs).logits
    assert relative(plain, expected) > 1e-3
    assert delta.add(base, found) is base
    assert relative(base(*inputs).logits, expected) < 1e-5
    assert delta.take_off(base, found) is base and same(base, before)
    assert torch.equal(base(*inputs).logits, plain)
    delta.add(base, found)
    assert relative(base(*inputs).logits, expected) < 1e-5, "and again"


def test_a_delta_is_for_one_base_and_is_added_once() -> None:
    base = original()
    goal, factors = unlearned(base)
    found = delta.difference(base.state_dict(), goal.state_dict(), factors)
    other = copy.deepcopy(base)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    before = bits(other)
    for wrong in (other, goal):
        with pytest.raises(UserError, match="other weights"):
            delta.add(wrong, found)
    assert same(other, before), "nothing is half added"
    with pytest.raises(UserError, match="add it first"):
        delta.take_off(base, found)
    delta.add(base, found)
    with pytest.raises(UserError, match="added already"):
        delta.add(base, found)
    with torch.no_grad():
        next(base.parameters()).add_(1)
    with pytest.raises(UserError, match="not those of its base"):
        delta.take_off(base, found)


def test_a_change_that_factors_do_not_explain_is_kept_whole() -> None:
    base = original()
    goal, factors = unlearned(base)
    name = next(iter(factors)).removesuffix(".up")
    with torch.no_grad():
        goal.state_dict()[name].add_(0.1)
    found = delta.difference(base.state_dict(), goal.state_dict(), factors)
    assert name in found.difference and name not in found.low_rank and len(found.low_rank) == 3
    assert relative(delta.add(base, found)(*noise(RATE)).logits, goal(*noise(RATE)).logits) < 1e-5


def test_a_method_of_all_weights_has_no_delta() -> None:
    base = original()
    weights = base.state_dict()
    with pytest.raises(Unsupported, match=r"has 100% of the bytes of the whole model: unlearn with method.trainable"):
        delta.difference(weights, {name: tensor + 1 for name, tensor in weights.items()}, {})
    with pytest.raises(Unsupported, match="changed no weight"):
        delta.difference(weights, dict(weights), {})
    with pytest.raises(Unsupported, match="another architecture"):
        delta.difference(weights, {"x": torch.zeros(1)}, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """An export of a result whose method trained low-rank updates."""
    folder = tmp_path_factory.mktemp("result")
    store, base = Store(folder), original()
    goal, factors = unlearned(base)
    description = described(options(NAME))
    first = store.produce("original", "made", {}, lambda place, _: save_classifier(place, base, description))

    def build_unlearned(place: Path, _: str) -> None:
        save_classifier(place, goal, description)
        save_file(factors, place / LOW_RANK)

    second = store.produce("unlearned", "made", {}, build_unlearned)
    artefacts = {"original": first.folder.name, "unlearned": second.folder.name}
    record = {"artefacts": artefacts, "delivered": "unlearned"}
    result = store.produce("result", "made", {}, lambda place, _: write_json(place / "result.json", record))
    (folder / "exported").mkdir()
    return Export(Source(result.folder, record, Model("unlearned", second.folder)), folder / "exported")


def test_an_exported_delta_is_small_and_works_on_the_loaded_original(made: Export) -> None:
    told = _make(made, "delta", asked=True)
    assert told["made"] and told["largest_difference"] < 1e-5 and told["low_rank"] == 4
    whole = (made.source.model.folder / "weights.safetensors").stat().st_size
    assert (made.folder / delta.FILE).stat().st_size == told["bytes"] < 0.5 * whole
    folder = made.source.output / "original" / made.source.record["artefacts"]["original"]
    recogniser, inputs = load(folder, device="cpu"), noise(RATE, 9000)
    before = bits(recogniser.classifier)
    delta.add(recogniser.classifier, made.folder)
    assert relative(recogniser.classifier(*inputs).logits, made.source.classifier(*inputs).logits) < 1e-5
    assert same(delta.take_off(recogniser.classifier, str(made.folder)), before)
    assert load_classifier(folder)[1]["labels"] == ["x"] * CLASSES


def test_only_the_unlearned_model_has_a_delta(made: Export) -> None:
    other = Export(Source(made.source.result, {}, Model("original", made.source.model.folder)), made.folder)
    with pytest.raises(UserError, match="delta cannot be made: a delta leads from the original"):
        _make(other, "delta", asked=True)


DAMAGES = {
    "missing": ("holds no readable delta", lambda folder: (folder / delta.RECORD).unlink()),
    "not json": ("holds no readable delta", lambda folder: (folder / delta.RECORD).write_text("[]")),
    "bytes": ("has other bytes", lambda folder: (folder / delta.FILE).write_bytes(b"x")),
    "version": ("another version", lambda folder: write_json(folder / delta.RECORD, {**read(folder), "version": 2})),
}


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / delta.RECORD).read_text()))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_delta_is_one_sentence(name: str, made: Export, tmp_path: Path) -> None:
    copied = Export(made.source, tmp_path)
    delta.write_delta(copied.folder, copied.source, made.clips.sounds[:1])
    words, damage = DAMAGES[name]
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        delta.read_delta(tmp_path)
