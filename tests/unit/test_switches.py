"""What every method can be told: curriculum, which weights move, how much of retain is seen, how large a gradient may be."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.special import lambertw
from support.facts import all_facts
from support.tiny import CLASS, CONF, SAMPLES, Problem, build, context_of, driver_of, guarded, original, run, student_of
from torch import Tensor

from speechforget.batch import Batch
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Method
from speechforget.methods.base.switches import equip
from speechforget.methods.common.superloss import MEMORY, Curriculum, lambert, weights

FACTS = all_facts()
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
TRAINED = [name for name in NAMES if build(name).passes()]
ONE_SHOT = [name for name in NAMES if name not in TRAINED]
trained = pytest.mark.parametrize("name", TRAINED)
finite = st.floats(-50, 50)


def made(name: str, **changes: Any) -> Method:
    """A method whose weights move in the few steps there are."""
    facts = FACTS.get(name)
    return build(name, **{**(facts.faster if facts else {}), **changes})


def problem_of(name: str) -> Problem:
    return SAMPLES if "sample" in OmegaConf.load(CONF / f"{name}.yaml").requests else CLASS


def ended(name: str, **changes: Any) -> dict[str, Tensor]:
    return run(problem_of(name), made(name, **changes)).state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


# ---- curriculum


@given(st.floats(-1 / math.e, 1e6, exclude_min=True))
def test_lambert_solves_its_equation(y: float) -> None:
    w = float(lambert(torch.tensor([y], dtype=torch.float64)))
    assert w >= -1
    assert w * math.exp(w) == pytest.approx(y, rel=1e-12, abs=1e-12)
    assert w == pytest.approx(float(lambertw(y).real), rel=1e-7, abs=1e-7)


@given(finite, finite, st.floats(0.05, 100))
def test_weights_minimise_the_superloss(loss: float, mean: float, strength: float) -> None:
    found = float(weights(torch.tensor([loss], dtype=torch.float64), mean, strength))
    low, high = (
        -12.0,
        1.0,
    )  # of log sigma: beyond 1 the minimum is none, as the expression falls without end for easy utterances
    for _ in range(12):
        grid = np.linspace(low, high, 401)
        best = int(np.argmin((loss - mean) * np.exp(grid) + strength * grid**2))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 400)]
        if high - low < 1e-9:
            break
    assert math.log(found) == pytest.approx(grid[best], abs=2e-5)
    assert 0 < found <= math.e + 1e-12


@given(st.lists(finite, min_size=2, max_size=9), finite, st.floats(0.05, 100))
def test_easier_utterances_weigh_no_less(losses: list[float], mean: float, strength: float) -> None:
    ordered = torch.tensor(sorted(losses), dtype=torch.float64)
    found = weights(ordered, mean, strength)
    assert bool((found.diff() <= 1e-12).all())
    assert bool(((found >= 1 - 1e-9) == (ordered <= mean + 1e-9 * (1 + abs(mean) + strength))).all())


def batch_of(forget: list[bool]) -> Batch:
    rows = torch.arange(len(forget))
    return Batch((torch.zeros(len(forget), 1),), rows, rows, torch.tensor(forget))


@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.floats(0, 9)), min_size=1, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["forget", "retain", "both"]),
)
def test_running_means_are_of_each_kind_and_only_the_chosen_kind_is_weighed(
    steps: list[list[tuple[bool, float]]], on: str
) -> None:
    curriculum, means = Curriculum(2.0, on), {False: math.nan, True: math.nan}
    for step in steps:
        values = torch.tensor([value for _, value in step], dtype=torch.float64)
        found = curriculum(values, batch_of([forget for forget, _ in step]))
        for kind, word in ((False, "retain"), (True, "forget")):
            mine = [value for forget, value in step if forget == kind]
            if on in (word, "both") and mine:
                now = sum(mine) / len(mine)
                means[kind] = now if math.isnan(means[kind]) else MEMORY * means[kind] + (1 - MEMORY) * now
        for (kind, value), weight in zip(step, found.tolist(), strict=True):
            weighed = on in ("forget" if kind else "retain", "both")
            expected = float(weights(torch.tensor([value], dtype=torch.float64), means[kind], 2.0)) if weighed else 1.0
            assert weight == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(curriculum.means.numpy(), [means[False], means[True]], rtol=1e-12)


@trained
def test_without_limit_to_its_strength_the_curriculum_is_none(name: str) -> None:
    plain = ended(name)
    assert same(ended(name, curriculum="superloss", curriculum_strength=1e12), plain)
    assert not same(ended(name, curriculum="superloss", curriculum_strength=0.05), plain)


@pytest.mark.parametrize(("name", "side"), [("finetune", "retain"), ("gradient_ascent", "forget")])
def test_a_curriculum_on_the_other_side_changes_nothing(name: str, side: str) -> None:
    plain, other = ended(name), {"forget": "retain", "retain": "forget"}[side]
    changes = {"curriculum": "superloss", "curriculum_strength": 0.1}
    assert same(ended(name, **changes, curriculum_on=other), plain)
    assert not same(ended(name, **changes, curriculum_on=side), plain)
    assert same(ended(name, **changes, curriculum_on=side), ended(name, **changes))


@pytest.mark.parametrize("name", ["finetune", "scrub", "salun", "munba", "sfron", "lotus", "negative_gradient"])
def test_a_resumed_run_goes_on_with_its_running_means(name: str) -> None:
    changes = {"curriculum": "superloss", "curriculum_strength": 0.5}
    whole = ended(name, **changes)

    def start() -> tuple[Driver, torch.optim.Optimizer]:
        method = made(name, **changes)
        student = student_of(method)
        method.prepare(student, context_of(SAMPLES, method))
        driver = driver_of(SAMPLES, student, method)
        return driver, driver.make_optimizer()

    def go(driver: Driver, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for index in range(first, last):
            driver.start_pass(index, optimizer)
            for batch in SAMPLES.stream(driver.plan[index], index, driver.method.retain_share):
                optimizer.zero_grad()
                driver.loss(batch, index).backward()
                driver.after_backward(index, optimizer)
                optimizer.step()
                driver.after_step()
            driver.end_pass(index)

    driver, optimizer = start()
    go(driver, optimizer, 0, 1)
    assert not bool(driver.method.get_buffer("curriculum.means").isnan().all())
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (driver.student, driver.method, optimizer)], file)
    file.seek(0)
    driver, optimizer = start()
    for part, state in zip(
        (driver.student, driver.method, optimizer), torch.load(file, weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    go(driver, optimizer, 1, len(driver.plan))
    assert same(driver.student.state_dict(), whole)


# ---- which weights move


@trained
def test_with_the_head_alone_trainable_nothing_else_moves(name: str) -> None:
    try:
        after, before = ended(name, trainable="head"), original().state_dict()
    except NotApplicable as error:  # what changes a convolution has nothing to do
        pytest.skip(str(error))
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved and all(key.startswith("head.") for key in moved)


@pytest.mark.parametrize("name", ["finetune", "scrub"])
def test_a_frozen_layer_s_statistics_follow_the_pass_only_if_asked(name: str) -> None:
    method = made(
        name, trainable="head", **({"batch_norm": "train"} if name == "finetune" else {"forget_batch_norm": "train"})
    )
    method.frozen_batch_norm = None
    assert not torch.equal(run(SAMPLES, method).norm.running_mean, original().norm.running_mean)


# ---- learning rates meant for a number of steps


@pytest.mark.parametrize(("name", "steps"), [("gradient_ascent", 6), ("finetune", 20), ("scrub", 23), ("salun", 24)])
def test_learning_rates_are_shared_out_over_the_steps_there_are(name: str, steps: int) -> None:
    options = OmegaConf.load(CONF / f"{name}.yaml")
    plain = ended(name, learning_rate_steps=None, learning_rate=options.learning_rate)
    assert same(ended(name, learning_rate_steps=steps, learning_rate=options.learning_rate), plain)
    assert same(ended(name, learning_rate_steps=steps * 2, learning_rate=options.learning_rate / 2), plain)
    assert not same(ended(name, learning_rate_steps=steps * 2, learning_rate=options.learning_rate), plain)


def test_a_forget_set_many_times_as_large_moves_the_weights_no_further() -> None:
    def moved(problem: Problem, **changes: Any) -> float:
        after, before = run(problem, build("gradient_ascent", **changes)).state_dict(), original().state_dict()
        return math.sqrt(sum(float((after[key] - before[key]).square().sum()) for key in before))

    steps = {"optimizer": {"name": "sgd"}, "clip": 1e-3, "learning_rate": 1.0}  # every step as long as any other
    few, many = Problem(range(4)), Problem(range(36))  # one batch, and nine
    assert moved(many, **steps, learning_rate_steps=None) > 3 * moved(few, **steps, learning_rate_steps=None)
    ratio = moved(many, **steps, learning_rate_steps=2) / moved(few, **steps, learning_rate_steps=2)
    assert 0.3 < ratio < 1.01


# ---- clip


@pytest.mark.parametrize("name", [name for name in TRAINED if "clip" in OmegaConf.load(CONF / f"{name}.yaml")])
def test_no_gradient_is_larger_than_allowed_when_the_optimiser_sees_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, limit = problem_of(name), 1e-4
    method, seen = made(name, clip=limit), []
    student, after_backward = student_of(method), Driver.after_backward

    def watched(driver: Driver, index: int, optimizer: torch.optim.Optimizer) -> None:
        after_backward(driver, index, optimizer)
        norm = torch.cat(
            [parameter.grad.reshape(-1) for parameter in student.parameters() if parameter.grad is not None]
        ).norm()
        seen.append((method.norm_allowed(), float(norm)))

    monkeypatch.setattr(Driver, "after_backward", watched)
    method.prepare(student, context_of(problem, method))
    driver_of(problem, student, method).run(guarded(problem, method))
    assert {allowed for allowed, _ in seen} <= {limit, None} and any(allowed for allowed, _ in seen)
    assert all(norm <= limit * 1.001 for allowed, norm in seen if allowed is not None)
    assert any(norm > 0.5 * limit for allowed, norm in seen if allowed is not None)


# ---- what cannot be


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"curriculum": "superlos"}, "did you mean 'superloss'"),
        ({"curriculum": "superloss", "curriculum_on": "retian"}, "did you mean 'retain'"),
        ({"curriculum": "superloss", "curriculum_strength": 0.0}, "above 0"),
        ({"curriculum": "superloss", "curriculum_strength": math.nan}, "above 0"),
        ({"curriculum": "superloss", "curriculum_strength": "much"}, "above 0"),
        ({"curriculum_on": "retian"}, "did you mean 'retain'"),
        ({"trainable": "haed"}, "did you mean 'head'"),
        ({"retain_share": 0.0}, "above 0 and at most 1"),
        ({"retain_share": 1.5}, "above 0 and at most 1"),
        ({"retain_share": "half"}, "above 0 and at most 1"),
        ({"retain_share": math.nan}, "above 0 and at most 1"),
        ({"learning_rate_steps": 0}, "number of steps above 0"),
        ({"learning_rate_steps": -3}, "number of steps above 0"),
        ({"learning_rate_steps": math.nan}, "number of steps above 0"),
        ({"learning_rate_steps": "many"}, "number of steps above 0"),
    ],
)
def test_nonsense_is_one_sentence(changes: dict, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        build("finetune", **changes)
    assert not isinstance(caught.value, NotApplicable)


@pytest.mark.parametrize("name", ONE_SHOT)
@pytest.mark.parametrize(
    "changes", [{"curriculum": "superloss"}, {"trainable": "head"}, {"trainable": "lora"}, {"learning_rate_steps": 9}]
)
def test_what_makes_its_change_at_once_has_nothing_to_switch(name: str, changes: dict) -> None:
    with pytest.raises(NotApplicable, match=f"method.{next(iter(changes))} is for methods that train"):
        build(name, **changes)


def test_switches_left_out_are_off() -> None:
    method = equip(copy.deepcopy(build("finetune")), {})
    assert (method.curriculum, method.trainable, method.retain_share, method.learning_rate_steps) == (
        None,
        "all",
        1.0,
        None,
    )
