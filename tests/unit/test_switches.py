"""Test the options that every method has: curriculum, trainable weights, share of retain, clipping, and steps."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.special import lambertw
from support.facts import all_facts
from support.tiny import CLASS, CONF, SAMPLES, Problem, build, options_of, original, run, run_interrupted
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
finite = st.floats(-50, 50)


def made(name: str, **changes: Any) -> Method:
    """Build a method that moves weights in the few steps there are."""
    return build(name, **{**FACTS[name].faster, **changes})


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
    # The bounds of log sigma. Beyond 1 there is no minimum: the expression falls without end for easy utterances.
    low, high = -12.0, 1.0
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
    # Around the mean, a weight is 1 - (loss - mean) / (2 strength): 1e-9 strengths away, it is not rounded to 1.
    easy = mean - ordered
    assert bool((found[easy >= 0] >= 1 - 1e-12).all()) and bool((found[easy <= 0] <= 1 + 1e-12).all())
    assert bool((found[easy > 1e-9 * strength] > 1).all()) and bool((found[easy < -1e-9 * strength] < 1).all())


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


@pytest.mark.slow
def test_without_limit_to_its_strength_the_curriculum_is_none() -> None:
    for name in set(TRAINED) - {"clipped_noise"}:  # its bound is about plain steps
        plain = ended(name)
        assert same(ended(name, curriculum="superloss", curriculum_strength=1e12), plain), name
        assert not same(ended(name, curriculum="superloss", curriculum_strength=0.05), plain), name


@pytest.mark.parametrize(("name", "side"), [("finetune", "retain"), ("gradient_ascent", "forget")])
def test_a_curriculum_on_the_other_side_changes_nothing(name: str, side: str) -> None:
    plain, other = ended(name), {"forget": "retain", "retain": "forget"}[side]
    changes = {"curriculum": "superloss", "curriculum_strength": 0.1}
    assert same(ended(name, **changes, curriculum_on=other), plain)
    assert not same(ended(name, **changes, curriculum_on=side), plain)
    assert same(ended(name, **changes, curriculum_on=side), ended(name, **changes))


def test_a_resumed_run_goes_on_with_its_running_means() -> None:
    changes = {"curriculum": "superloss", "curriculum_strength": 0.5}
    for name in ("finetune", "scrub", "salun", "munba", "sfron", "lotus", "negative_gradient"):
        driver = run_interrupted(SAMPLES, partial(made, name, **changes))
        assert not bool(driver.method.get_buffer("curriculum.means").isnan().all()), name
        assert same(driver.student.state_dict(), ended(name, **changes)), name


# ---- which weights move


def test_with_the_head_alone_trainable_nothing_else_moves() -> None:
    before, refused = original().state_dict(), set()
    for name in TRAINED:
        try:
            after = ended(name, trainable="head")
        except NotApplicable:
            refused.add(name)
            continue
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert moved and all(key.startswith("head.") for key in moved), name
    # They change convolutions only, collapse what the head reads, and bound the steps of all weights.
    assert refused == {"kernel_reversal", "cola", "clipped_noise"}


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
    options = OmegaConf.create({"task": {"kind": "sample"}, "method": OmegaConf.load(CONF / f"{name}.yaml")}).method
    plain = ended(name, learning_rate_steps=None, learning_rate=options.learning_rate)
    assert same(ended(name, learning_rate_steps=steps, learning_rate=options.learning_rate), plain)
    assert same(ended(name, learning_rate_steps=steps * 2, learning_rate=options.learning_rate / 2), plain)
    assert not same(ended(name, learning_rate_steps=steps * 2, learning_rate=options.learning_rate), plain)


def test_a_forget_set_many_times_as_large_moves_the_weights_no_further() -> None:
    def moved(problem: Problem, **changes: Any) -> float:
        after, before = run(problem, build("gradient_ascent", **changes)).state_dict(), original().state_dict()
        return math.sqrt(sum(float((after[key] - before[key]).square().sum()) for key in before))

    # Clipping makes all steps equally long. The first request is one batch, the second nine.
    steps = {"optimizer": {"name": "sgd"}, "clip": 1e-3, "learning_rate": 1.0}
    few, many = Problem(range(4)), Problem(range(36))
    assert moved(many, **steps, learning_rate_steps=None) > 3 * moved(few, **steps, learning_rate_steps=None)
    ratio = moved(many, **steps, learning_rate_steps=2) / moved(few, **steps, learning_rate_steps=2)
    assert 0.3 < ratio < 1.01


# ---- clip


def test_no_gradient_is_larger_than_allowed_when_the_optimiser_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, after_backward = 1e-4, Driver.after_backward
    seen: list[tuple[float | None, float]] = []

    def watched(driver: Driver, index: int, optimizer: torch.optim.Optimizer) -> None:
        after_backward(driver, index, optimizer)
        gradients = [weight.grad.reshape(-1) for weight in driver.student.parameters() if weight.grad is not None]
        seen.append((driver.method.norm_allowed(), float(torch.cat(gradients).norm())))

    monkeypatch.setattr(Driver, "after_backward", watched)
    for name in TRAINED:
        if "clip" not in options_of(name):
            continue
        seen.clear()
        run(problem_of(name), made(name, clip=limit))
        limited = [norm for allowed, norm in seen if allowed is not None]
        assert {allowed for allowed, _ in seen} <= {limit, None} and limited, name
        assert max(limited) <= limit * 1.001, name
        assert max(limited) > 0.5 * limit, name


# ---- what cannot be


def test_nonsense_is_one_sentence() -> None:
    share, above, steps = "above 0 and at most 1", "above 0", "number of steps above 0"
    for changes, hint in [
        ({"curriculum": "superlos"}, "did you mean 'superloss'"),
        ({"curriculum": "superloss", "curriculum_on": "retian"}, "did you mean 'retain'"),
        ({"curriculum": "superloss", "curriculum_strength": 0.0}, above),
        ({"curriculum": "superloss", "curriculum_strength": math.nan}, above),
        ({"curriculum": "superloss", "curriculum_strength": "much"}, above),
        ({"curriculum_on": "retian"}, "did you mean 'retain'"),
        ({"trainable": "haed"}, "did you mean 'head'"),
        ({"retain_share": 0.0}, share),
        ({"retain_share": 1.5}, share),
        ({"retain_share": "half"}, share),
        ({"retain_share": math.nan}, share),
        ({"learning_rate_steps": 0}, steps),
        ({"learning_rate_steps": -3}, steps),
        ({"learning_rate_steps": math.nan}, steps),
        ({"learning_rate_steps": "many"}, steps),
    ]:
        with pytest.raises(UserError, match=hint) as caught:
            build("finetune", **changes)
        assert not isinstance(caught.value, NotApplicable), changes


def test_what_makes_its_change_at_once_has_nothing_to_switch() -> None:
    switches = {"curriculum": "superloss", "trainable": "head", "learning_rate_steps": 9}
    for name, (switch, value) in itertools.product(ONE_SHOT, [*switches.items(), ("trainable", "lora")]):
        with pytest.raises(NotApplicable, match=f"method.{switch} is for methods that train"):
            build(name, **{switch: value})


def test_switches_left_out_are_off() -> None:
    method = equip(copy.deepcopy(build("finetune")), {})
    assert (method.curriculum, method.trainable, method.retain_share, method.learning_rate_steps) == (
        None,
        "all",
        1.0,
        None,
    )
