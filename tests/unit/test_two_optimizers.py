"""Two optimisers keep the momentum of forget steps and of retain steps apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.tiny import CLASS, SAMPLES, build, options_of, run, run_interrupted
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Method, Pass
from speechforget.methods.base.switches import equip
from speechforget.methods.base.two_optimizers import TwoOptimizers

SGD = {"name": "sgd", "momentum": 0.9}
ADAM = {"name": "adamw", "weight_decay": 0.1}
TURNS = [("scrub", {}), ("sfron", {"every": 2}), ("random_label", {"order": "sequential"})]


class Line(Method):
    """Minimise g w, where g is +1 on retain and -3 on forget."""

    def __init__(self, plan: list[Pass], optimizer: dict[str, Any]) -> None:
        super().__init__(optimizer)
        self.plan = plan

    def passes(self) -> list[Pass]:
        return self.plan

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        return student.weight.sum() * (-3.0 if batch.forget.any() else 1.0)  # type: ignore[union-attr,operator]


def batch(forget: bool) -> Batch:
    return Batch((), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.tensor([forget]))


def ended(plan: list[Pass], steps: list[str], optimizer: dict[str, Any]) -> float:
    """Return the weight after the passes of a plan; steps: for each pass, F and R for its batches."""
    method = equip(Line(plan, optimizer), {"optimizers": "two"})
    student = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(student.weight)
    driver = Driver(method, student, lambda _: 0.0)
    driver.run(lambda _, index: [batch(letter == "F") for letter in steps[index]])
    return float(student.weight.detach())


def by_hand(steps: str, rates: list[float]) -> float:
    """Run gradient descent with momentum 0.9 in two loops that share the weight alone."""
    weight, momentum = 0.0, {"F": 0.0, "R": 0.0}
    for letter, rate in zip(steps, rates, strict=True):
        momentum[letter] = 0.9 * momentum[letter] + (-3.0 if letter == "F" else 1.0)
        weight -= rate * momentum[letter]
    return weight


def test_passes_in_turns_keep_their_momentum() -> None:
    plan = [Pass("forget", 1, 0.1), Pass("retain", 1, 0.01), Pass("forget", 1, 0.1), Pass("retain", 1, 0.01)]
    expected = by_hand("FFRRRFFRRR", [0.1] * 2 + [0.01] * 3 + [0.1] * 2 + [0.01] * 3)
    assert ended(plan, ["FF", "RRR"] * 2, SGD) == pytest.approx(expected, abs=1e-12)


def test_steps_in_turns_keep_their_momentum() -> None:
    plan = [Pass("turns", 1, lambda step: 0.1 / (1 + step), length=5, every=2)]
    expected = by_hand("FRRFRRFR", [0.1 / (1 + step) for step in range(8)])
    assert ended(plan, ["FRRFRRFR"], SGD) == pytest.approx(expected, abs=1e-12)


def test_a_fresh_optimizer_is_that_of_the_pass() -> None:
    plan = [Pass("retain", 1, 0.1), Pass("forget", 1, 0.1), Pass("retain", 1, 0.1, fresh_optimizer=True)]
    plan.append(Pass("forget", 1, 0.1))
    kept = by_hand("RRFF", [0.1] * 4) - by_hand("RR", [0.1] * 2)
    expected = by_hand("RR", [0.1] * 2) * 2 + by_hand("FFFF", [0.1] * 4)
    assert kept == pytest.approx(by_hand("FF", [0.1] * 2))
    assert ended(plan, ["RR", "FF", "RR", "FF"], SGD) == pytest.approx(expected, abs=1e-12)


def test_adaptive_moments_are_apart_too() -> None:
    """With moments of its own, a step of Adam moves the weight by its rate, however large other gradients are."""
    plan = [Pass("forget", 1, 0.1), Pass("retain", 1, 0.01)] * 3
    found = ended(plan, ["F", "R"] * 3, {"name": "adam"})
    assert found == pytest.approx(3 * 0.1 - 3 * 0.01, rel=1e-6)


@pytest.mark.parametrize(("name", "changes"), TURNS)
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adamw"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, changes: dict[str, Any], optimizer: dict[str, Any]) -> None:
    problem = SAMPLES if "sample" in options_of(name)["requests"] else CLASS

    def make(**more: Any) -> Method:
        return build(name, learning_rate=0.02, optimizer=optimizer, **{**changes, **more})

    def two() -> Method:
        return make(optimizers="two")

    whole = run(problem, two()).state_dict()
    resumed = run_interrupted(problem, two).student.state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    one = run(problem, make()).state_dict()
    assert not all(torch.equal(value, one[key]) for key, value in whole.items()), "the switch has an effect"


def test_one_is_the_plain_optimizer() -> None:
    method = build("scrub")
    assert method.optimizers == "one"
    student = nn.Linear(1, 1)
    assert not isinstance(Driver(method, student, lambda _: 0.0).make_optimizer(), TwoOptimizers)


def test_a_saved_state_holds_both() -> None:
    method = equip(Line([Pass("turns", 1, 0.1, length=2)], SGD), {"optimizers": "two"})
    driver = Driver(method, nn.Linear(1, 1, bias=False), lambda _: 0.0)
    first, second = driver.make_optimizer(), driver.make_optimizer()
    driver.start_pass(0, first)
    for forget in (True, False):
        first.zero_grad()
        driver.loss(batch(forget), 0).backward()
        driver.after_backward(0, first)
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    moments = {half: one["state"][0]["momentum_buffer"].item() for half, one in second.state_dict().items()}
    assert moments == {"forget": -3.0, "retain": 1.0}


@pytest.mark.parametrize("name", ["finetune", "gradient_ascent", "negative_gradient", "bad_teaching", "unsir", "cola"])
def test_without_turns_it_is_refused(name: str) -> None:
    with pytest.raises(NotApplicable, match="alternate forget steps and retain steps"):
        build(name, optimizers="two")


def test_a_fresh_start_leaves_nothing_to_keep_apart() -> None:
    plan = [Pass("forget", 1, 0.1), Pass("retain", 1, 0.1, fresh_optimizer=True)]
    with pytest.raises(NotApplicable, match="no step of Line follows"):
        equip(Line(plan, SGD), {"optimizers": "two"})


def test_other_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"There is no method.optimizers=tow: did you mean 'two'"):
        build("scrub", optimizers="tow")
    with pytest.raises(NotApplicable, match=r"method.optimizers is for methods that train"):
        build("ssd", optimizers="two")
