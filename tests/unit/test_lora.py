"""Low-rank updates of pretrained encoders, and the share of retain that a method may see."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.encoders import CLASSES, HEADS, RATE, build, lively, noise, relative
from support.tiny import build as build_tiny
from support.tiny import original
from torch import nn

from speechforget.batch import Batch, halves
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import NotApplicable
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Pass
from speechforget.models.lora import adapt, settled
from speechforget.stages.unlearn import ordered_batches, pass_stream, retain_rows

ENCODERS = ["wav2vec2_base", "hubert_base", "wavlm_base", "whisper_tiny", "ast", "torchaudio_bundle"]
encoders = pytest.mark.parametrize("name", ENCODERS)


def adapted(name: str, seed: int = 0, **changes: Any) -> Any:
    model = lively(build(name, layers="weighted", **changes)).eval()
    adapt(model, "lora", seed)
    return model


def batch(*_: Any) -> Iterator[Batch]:
    inputs, rows = noise(RATE, 9000, 12000, 7000), torch.arange(4)
    return iter([Batch(inputs, rows % CLASSES, rows, rows < 2)])


@encoders
@pytest.mark.parametrize("method_name", ["gradient_ascent", "bad_teaching"])
def test_low_rank_updates_and_head_move_and_become_weights(name: str, method_name: str) -> None:
    plain = lively(build(name, layers="weighted")).eval()
    teacher = adapted(name)
    assert (
        relative(teacher(*noise(RATE, 9000)).logits, plain(*noise(RATE, 9000)).logits) < 1e-6
    )  # an update starts as none
    student = copy.deepcopy(teacher)
    method = build_tiny(method_name, trainable="lora", learning_rate=0.05)
    method.prepare(
        student,
        Context(teacher, lambda: build(name, seed=3, layers="weighted").eval(), lambda *_: batch(), CLASSES, (), 0),
    )
    Driver(method, student, lambda _: 0.0, lambda *_: 1).run(batch)
    before = teacher.state_dict()
    moved = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    updates = {key for key in before if "lora_" in key}
    assert updates and {key for key in updates if "lora_B" in key} <= moved
    assert moved - updates and all(key.startswith(HEADS) for key in moved - updates)

    student.eval()
    expected = student(*noise(RATE, 9000, 5000)).logits
    assert relative(teacher(*noise(RATE, 9000, 5000)).logits, expected) > 1e-3
    final = settled(student, "lora")
    assert set(final.state_dict()) == set(plain.state_dict())
    assert relative(final(*noise(RATE, 9000, 5000)).logits, expected) < 1e-5
    plain.load_state_dict(final.state_dict())
    assert relative(plain(*noise(RATE, 9000, 5000)).logits, expected) < 1e-5


def test_updates_start_from_the_seed_alone_and_leave_the_generator_as_it_was() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build("hubert_base", layers="weighted")
    torch.set_rng_state(before)
    adapt(first, "lora", 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, third = adapted("hubert_base", seed=5), adapted("hubert_base", seed=6)
    drawn = [
        [value for key, value in model.state_dict().items() if "lora_A" in key] for model in (first, second, third)
    ]
    assert len(drawn[0]) == 4
    assert all(torch.equal(one, two) for one, two in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(drawn[1], drawn[2], strict=True))


def test_where_there_is_nothing_to_update_it_is_said() -> None:
    with pytest.raises(NotApplicable, match="not Tiny: use head or all"):
        adapt(copy.deepcopy(original()), "lora")
    with pytest.raises(
        NotApplicable, match="not TorchaudioBundle: use head or all"
    ):  # its projections are never called
        adapt(build("torchaudio_bundle", bundle="WAVLM_BASE"), "lora")
    with pytest.raises(NotApplicable, match=r"model.tune=lora.*use that, or head"):
        adapt(build("hubert_base", tune="lora"), "lora")


def test_head_leaves_the_head_trainable_and_all_changes_nothing() -> None:
    for name in ("hubert_base", "ast"):
        model = build(name)
        before = [parameter.requires_grad for parameter in model.parameters()]
        adapt(model, "all")
        assert [parameter.requires_grad for parameter in model.parameters()] == before
        adapt(model, "head")
        assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == {
            "head.weight",
            "head.bias",
        }
        assert settled(model, "head") is model and isinstance(model, nn.Module)


# ---- the share of retain


@pytest.fixture(scope="module")
def sources() -> Sources:
    count, samples = 60, 40
    flat = np.random.default_rng(0).integers(-999, 999, count * samples).astype(np.int16)
    waveforms = Waveforms(Mapped(flat, np.arange(count) * samples), np.full(count, samples), samples)
    rows = {
        "train": np.arange(50),
        "forget": np.arange(0, 50, 7),
        "retain": np.setdiff1d(np.arange(50), np.arange(0, 50, 7)),
    }
    return Sources(waveforms, np.arange(count) % 4, rows | {"validation": np.arange(50, 60)})


STREAMS = [
    Pass("retain", 4, 0.1),
    Pass("mix", 4, 0.1),
    Pass("both", 4, 0.1),
    Pass("both", 4, 0.1, length=30, again=False),
    Pass("turns", 4, 0.1, length=30, every=3),
]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("current", STREAMS, ids=lambda current: f"{current.stream}, {current.length}")
def test_passes_see_that_retain_rows_and_all_of_forget(sources: Sources, current: Pass, share: float) -> None:
    method = build_tiny("bad_teaching", retain_share=share)
    allowed, forget = retain_rows(sources, method, 3), set(sources.rows["forget"].tolist())
    assert len(allowed) == max(1, round(share * len(sources.rows["retain"])))
    assert set(allowed.tolist()) <= set(sources.rows["retain"].tolist())
    for index in range(2):
        steps = pass_stream(sources, method, current, index, 3)
        seen = {int(row) for step in steps for half in halves(step) for row in half.rows}
        assert seen - forget == set(allowed.tolist())
        assert seen & forget == (set() if current.stream == "retain" else forget)


def test_shares_are_nested_and_depend_on_the_seed(sources: Sources) -> None:
    shares = [
        set(retain_rows(sources, build_tiny("finetune", retain_share=share), 3).tolist())
        for share in (0.1, 0.4, 0.8, 1.0)
    ]
    assert all(small < large for small, large in itertools.pairwise(shares))
    half = build_tiny("finetune", retain_share=0.5)
    assert not np.array_equal(retain_rows(sources, half, 3), retain_rows(sources, half, 4))


def test_what_is_read_before_the_passes_is_the_same_share(sources: Sources) -> None:
    method = build_tiny("bad_teaching", retain_share=0.3)
    batches = ordered_batches(method, sources, torch.device("cpu"), 3)
    found = {name: [int(row) for part in batches(name, 4) for row in part.rows] for name in ("forget", "retain")}
    assert found["forget"] == sources.rows["forget"].tolist()
    assert found["retain"] == retain_rows(sources, method, 3).tolist()
    with pytest.raises(NotApplicable, match=r"set method\.retain_share=1"):
        next(iter(batches("train", 4)))
    whole = ordered_batches(build_tiny("bad_teaching", retain_share=1.0), sources, torch.device("cpu"), 3)
    assert [int(row) for part in whole("train", 4) for row in part.rows] == sources.rows["train"].tolist()
