"""Test every method of conf/method on a tiny problem with batch-norm, and the driver that runs them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.facts import ONE_OF_EACH, Facts, all_facts
from support.tiny import (
    CLASS,
    CONF,
    SAMPLES,
    Problem,
    build,
    context_of,
    driver_of,
    forget_loss,
    guarded,
    options_of,
    original,
    run,
    run_interrupted,
    run_pass,
    student_of,
)
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.driver import Driver, end_batch_norm, set_batch_norm
from speechforget.methods.base.method import Method, Pass, frozen_copy
from speechforget.training.cost_meter import Cost

FACTS = all_facts()
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
TRAINED = [name for name in NAMES if build(name).passes()]
names = pytest.mark.parametrize("name", NAMES)


def variants(name: str) -> list[tuple[dict[str, Any], Facts]]:
    """Return the yaml's options and those that a user may choose, each with its facts."""
    facts = FACTS[name]
    others = [(dict(changes), replace(facts, **other)) for changes, other in facts.variants]
    return [({}, facts), *others]


@cache
def forget_a_class(name: str, variant: int) -> tuple[nn.Module, Cost]:
    """Run a variant on the class request, and return the student and the cost."""
    cost = Cost()
    method = build(name, **variants(name)[variant][0])
    student = cost.watch(student_of(method))
    with cost:
        method.prepare(student, context_of(CLASS, method, cost.watch))
        driver_of(CLASS, student, method).run(guarded(CLASS, method))
    return student, cost


def test_facts_are_said_of_every_method() -> None:
    assert set(FACTS) == set(NAMES)


def test_one_of_each_has_every_kind_of_pass() -> None:
    def kinds(some: Iterable[str]) -> set[str]:
        methods = [build(name, **changes) for name in some for changes, _ in variants(name)]
        return {current.stream for method in methods for current in method.passes()}

    assert kinds(ONE_OF_EACH) == kinds(NAMES)
    assert set(ONE_OF_EACH) - set(TRAINED)


def test_yaml_is_named_as_its_file_and_says_where_each_number_comes_from() -> None:
    for name in NAMES:
        config = OmegaConf.load(CONF / f"{name}.yaml")
        assert config.name == name
        assert set(config.requests) <= {"sample", "class", "attribute"}, name
        head = ("name:", "labels:", "requests:", "_target_:", "#")
        lines = (CONF / f"{name}.yaml").read_text().splitlines()
        assert not [line for line in lines if line and not line.startswith(head) and " #" not in line], name
        assert isinstance(build(name), Method)


def test_what_stands_under_a_kind_of_request_is_what_such_a_request_gets() -> None:
    for name in NAMES:
        requests = options_of(name)["requests"]
        for kind in requests:
            options, numbers = options_of(name, kind), requests[kind] if isinstance(requests, dict) else {}
            assert {key: options[key] for key in numbers} == numbers, name
            others = [options_of(name, other) for other in requests]
            assert all(options[key] == other[key] for other in others for key in options if key not in numbers), name


@names
def test_forget_loss_goes_the_way_that_is_said(name: str) -> None:
    before = original().state_dict()
    for changes, facts in variants(name):
        student = run(CLASS, build(name, **{**facts.faster, **changes}))
        if facts.forget == "rises":
            assert forget_loss(CLASS, student) > 1.5 * forget_loss(CLASS, original()), changes
        after = student.state_dict()
        same = after.keys() == before.keys() and all(torch.equal(value, before[key]) for key, value in after.items())
        assert same == (facts.forget == "same") or facts.forget == "any", changes


@names
def test_every_request_ends_in_evaluation_mode_with_finite_weights_at_the_cost_that_is_said(name: str) -> None:
    requests = OmegaConf.load(CONF / f"{name}.yaml").requests
    for variant, (changes, facts) in enumerate(variants(name)):
        student, cost = forget_a_class(name, variant)
        assert (cost.forward, cost.forward_backward) == facts.cost, changes
        one = [SAMPLES, Problem([3])] if "sample" in requests else []
        students = [student] if {"class", "attribute"} & set(requests) else []
        students += [run(some, build(name, **changes)) for some in one]
        for student in students:
            assert not student.training
            assert all(bool(value.isfinite().all()) for value in student.state_dict().values()), changes


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_is_bit_equal(name: str) -> None:
    for variant, (changes, _) in enumerate(variants(name)):
        whole = forget_a_class(name, variant)[0].state_dict()
        resumed = run_interrupted(CLASS, partial(build, name, **changes)).student.state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in resumed.items()), changes


@pytest.mark.parametrize("changes", [changes for changes, _ in variants("salun")])
def test_masked_weights_never_move(changes: dict) -> None:
    method = build("salun", mask_share=0.3, **changes)
    student = run(SAMPLES, method)
    before = nn.utils.parameters_to_vector(original().parameters())
    after = nn.utils.parameters_to_vector(student.parameters())
    mask = method.get_buffer("mask")
    assert int(mask.sum()) == int(0.3 * len(mask))
    assert torch.equal(after[~mask], before[~mask])
    assert float((after[mask] != before[mask]).double().mean()) > 0.9


def test_masked_weights_have_no_say_in_the_gradient_norm() -> None:
    method, student = build("salun", mask_share=0.3), copy.deepcopy(original())
    method.prepare(student, context_of(SAMPLES, method))
    for parameter in student.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    driver = Driver(method, student, lambda name: 0.0, lambda *_: 1)
    driver.after_backward(0, driver.make_optimizer())
    gradients = nn.utils.parameters_to_vector(
        [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    )
    assert torch.equal(gradients == 0, ~method.get_buffer("mask"))


def test_salun_shares_out_only_weights_that_can_move() -> None:
    method, model = build("salun", mask_share=0.5), copy.deepcopy(original())
    frozen = next(model.parameters()).requires_grad_(False)
    method.prepare(copy.deepcopy(model), replace(context_of(SAMPLES, method), original=model))
    sizes = [parameter.numel() for parameter in model.parameters()]
    pieces = method.mask.split(sizes)
    assert not pieces[0].any() and int(method.mask.sum()) == (sum(sizes) - frozen.numel()) // 2


@pytest.mark.parametrize(
    ("name", "options"), [("random_label", {"order": "sequential"}), ("scrub", {}), ("salun", {"order": "sequential"})]
)
def test_forget_and_retain_passes_have_the_batch_norm_asked_for_and_forget_comes_first(
    name: str, options: dict[str, str]
) -> None:
    plan = build(name, forget_batch_norm="batch", retain_batch_norm="frozen", epochs=1, **options).passes()
    assert [(current.stream, current.batch_norm) for current in plan] == [("forget", "batch"), ("retain", "frozen")]


@pytest.mark.parametrize("name", ["random_label", "salun"])
def test_wrong_and_right_labels_are_learnt_in_one_mixed_pass_unless_asked_otherwise(name: str) -> None:
    plan = build(name, forget_batch_norm="batch", epochs=2).passes()
    assert [(current.stream, current.batch_norm, current.epoch) for current in plan] == [
        ("mix", "batch", 0),
        ("mix", "batch", 1),
    ]


def test_scrub_lowers_its_rate_after_the_epochs_named() -> None:
    plan = build("scrub", epochs=4, forget_epochs=4, learning_rate=1.0, decay_after=[1, 3], decay=0.5).passes()
    assert [current.learning_rate for current in plan] == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert [current.epoch for current in plan] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_scrub_without_forget_epochs_is_distillation() -> None:
    student = run(
        SAMPLES,
        build(
            "scrub",
            forget_epochs=0,
            alpha=0.7,
            gamma=0.2,
            temperature=3.0,
            optimizer={"name": "sgd"},
            learning_rate=0.05,
        ),
    )
    teacher, expected = frozen_copy(original()), copy.deepcopy(original()).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for epoch in range(2):
        for batch in SAMPLES.stream(Pass("retain", 4, 0.05), epoch):
            logits = expected(*batch.inputs).logits
            p = (teacher(*batch.inputs).logits / 3).softmax(dim=1)
            distance = 9 * (p * (p.log() - (logits / 3).log_softmax(dim=1))).sum(dim=1).mean()
            optimizer.zero_grad()
            (0.7 * distance + 0.2 * functional.cross_entropy(logits, batch.labels)).backward()
            optimizer.step()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], value)


@pytest.mark.parametrize(
    ("forget", "validation", "chosen", "warns"),
    [
        ([1.0, 0.6, 0.3], 0.5, 1, False),
        ([1.0, 0.6, 0.3], 0.95, 0, True),
        ([1.0, 0.6, 0.3], 0.1, 2, True),
        ([0.9, 0.5, 0.5], 0.7, 0, True),  # tied: the first
        ([1.0, 0.7, 0.7], 0.6, 1, False),
    ],
)
def test_scrub_rewinds_to_the_first_nearest_of_all_models(
    forget: list[float], validation: float, chosen: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    method, student = build("scrub", rewind=True), copy.deepcopy(original())
    method.prepare(student, context_of(SAMPLES, method))
    seen: list[Tensor] = []

    def evaluate(name: str) -> float:
        if name == "validation":
            return validation
        seen.append(student.head.weight.detach().clone())
        return forget[len(seen) - 1]

    with caplog.at_level(logging.WARNING):
        Driver(method, student, evaluate).run(SAMPLES.stream)
    assert len(seen) == 3
    assert torch.equal(seen[0], original().head.weight)
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(student.head.weight, seen[chosen])
    assert ("rewound" in caplog.text) == warns


def test_labels_are_drawn_anew_in_each_epoch_only_if_asked() -> None:
    batch = next(SAMPLES.batches(torch.arange(46), 46))
    for redraw in (True, False):
        method = build("random_label", redraw=redraw)
        method.prepare(original(), context_of(SAMPLES, method))
        first, second = (method.draw(batch, epoch) for epoch in (0, 1))  # type: ignore[operator]
        assert torch.equal(first, second) != redraw


def test_a_mistake_in_a_number_is_one_sentence() -> None:
    for name, changes, hint in [
        ("random_label", {"order": "joined"}, "joint"),
        ("salun", {"mask_share": 0.0}, "mask_share"),
        ("finetune", {"batch_norm": "eval"}, "frozen"),
        ("finetune", {"batch_size": 0}, "at least 1"),
        ("finetune", {"optimizer": {"name": "adma"}}, "adam"),
    ]:
        with pytest.raises(UserError, match=hint):
            run(SAMPLES, build(name, **changes))


# ---- the driver


@pytest.mark.parametrize("mode", ["frozen", "batch", "train"])
def test_batch_norm_modes(mode: str) -> None:
    model = copy.deepcopy(original())
    before = copy.deepcopy(model.norm.state_dict())
    x = 3 * SAMPLES.waveform[:8] + 1
    lengths = torch.full((8,), 32)
    deployed = model(x, lengths).logits
    set_batch_norm(model, mode)  # type: ignore[arg-type]
    seen = model(x, lengths).logits
    assert torch.equal(seen, deployed) == (mode == "frozen")
    moved = [key for key, value in model.norm.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(moved) == (mode == "train")
    end_batch_norm(model)
    assert not model.norm.training
    assert model.norm.track_running_stats
    if mode != "train":
        assert torch.equal(model(x, lengths).logits, deployed)


@pytest.mark.parametrize("name", ["gradient_ascent", "random_label", "scrub", "bad_teaching", "salun"])
def test_by_default_no_pass_over_forget_moves_running_statistics(name: str) -> None:
    method, student = build(name), copy.deepcopy(original())
    method.prepare(student, context_of(SAMPLES, method))
    driver = Driver(method, student, lambda name: 0.0, lambda *_: 1)
    assert driver.plan[0].stream in ("forget", "mix")
    run_pass(driver, driver.make_optimizer(), SAMPLES, 0)
    assert all(torch.equal(value, dict(original().named_buffers())[key]) for key, value in student.named_buffers())
    assert not torch.equal(student.head.weight, original().head.weight)


class Recorder(Method):
    """Minimises the sum of all weights, and can be told to stop."""

    def __init__(self, stop: bool = False, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.stop, self.norms = stop, [0.0]

    def passes(self) -> list[Pass]:
        return [Pass("retain", 46, 0.5), Pass("retain", 46, 0.0), Pass("retain", 46, 0.25)]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        return 100 * nn.utils.parameters_to_vector(student.parameters()).sum()

    def after_step(self, student: nn.Module) -> None:
        change = nn.utils.parameters_to_vector(student.parameters()) - nn.utils.parameters_to_vector(
            original().parameters()
        )
        self.norms.append(float(change.norm()))

    def after_pass(self, student: nn.Module, index: int, evaluate: Callable[[str], float]) -> bool:
        assert not student.training
        return self.stop


def test_driver_clips_sets_rates_and_warns_of_a_pass_that_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    method, student = Recorder(clip=2.0), copy.deepcopy(original())
    with caplog.at_level(logging.WARNING):
        Driver(method, student, lambda name: 0.0, lambda *_: 1).run(SAMPLES.stream)
    np.testing.assert_allclose(method.norms, [0.0, 1.0, 1.0, 1.5], rtol=1e-4)
    assert caplog.text.count("changed no weight") == 1
    assert "Pass 1 " in caplog.text


def test_driver_stops_when_the_method_says_so() -> None:
    method = Recorder(stop=True)
    Driver(method, copy.deepcopy(original()), lambda name: 0.0).run(SAMPLES.stream)
    assert len(method.norms) == 2


def test_teachers_stay_in_evaluation_mode_and_get_no_gradient() -> None:
    method, student = build("bad_teaching"), copy.deepcopy(original())
    method.prepare(student, context_of(SAMPLES, method))
    method.train()
    assert not any(module.training for module in method.modules())
    assert not any(parameter.requires_grad for parameter in method.parameters())
    frozen = copy.deepcopy(method.state_dict())
    Driver(method, student, lambda name: 0.0, lambda *_: 1).run(guarded(SAMPLES, method))
    assert all(torch.equal(value, frozen[key]) for key, value in method.state_dict().items())


def test_watch_counts_copies_and_tells_backward_from_forward() -> None:
    cost = Cost()
    model = cost.watch(copy.deepcopy(original()))
    with cost:
        model(SAMPLES.waveform[:5], SAMPLES.lengths[:5])
        with cost.paused():
            model(SAMPLES.waveform[:9], SAMPLES.lengths[:9])
    model(SAMPLES.waveform[:7], SAMPLES.lengths[:7])
    with cost, torch.no_grad():
        copy.deepcopy(model)(SAMPLES.waveform[:3], SAMPLES.lengths[:3])
    assert (cost.forward, cost.forward_backward) == (3, 5)
