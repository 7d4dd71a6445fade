"""The certificate: its noise against closed forms, and steps that are those that the bound is about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from support.tiny import CLASS, build, context_of, original, run, student_of
from torch import nn
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.clipped_noise import clip, distance_for, measure_statistics, noise_for

WEIGHT, GRADIENT, RATE = 0.7, 0.4, 0.05


def test_one_step_without_decay_is_the_gaussian_mechanism() -> None:
    """Two starts 2 C_0 apart, and two gradients 2 C_1 apart, under one draw of noise."""
    assert distance_for(WEIGHT, GRADIENT, 0.0, RATE, 1) == pytest.approx(2 * WEIGHT + 2 * RATE * GRADIENT)


@given(st.floats(0, 5), st.integers(1, 50))
def test_the_bound_is_reached_by_opposite_models_with_opposite_gradients(decay: float, steps: int) -> None:
    """Both end normal: the divergence of order alpha is alpha (difference of means)^2 / (2 variance)."""
    mean, variance, shrink = 2 * WEIGHT, 0.0, 1 - RATE * decay
    for _ in range(steps):
        mean, variance = shrink * mean + 2 * RATE * GRADIENT, shrink**2 * variance + 1
    assert distance_for(WEIGHT, GRADIENT, decay, RATE, steps) == pytest.approx(mean / math.sqrt(variance))


@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_no_other_way_to_absorb_the_distance_is_cheaper(decay: float) -> None:
    steps, shrink = 6, 1 - RATE * decay

    def left(parts: np.ndarray) -> float:
        distance = 2 * WEIGHT
        for part in parts:
            distance = shrink * distance + 2 * RATE * GRADIENT - part
        return distance

    found = minimize(
        lambda parts: float(parts @ parts), np.ones(steps), constraints={"type": "eq", "fun": left}, tol=1e-12
    )
    assert distance_for(WEIGHT, GRADIENT, decay, RATE, steps) == pytest.approx(math.sqrt(found.fun), rel=1e-5)


@given(st.floats(0.01, 20), st.floats(1e-12, 0.5), st.integers(1, 100))
def test_the_noise_gives_the_epsilon_that_was_asked_for(epsilon: float, delta: float, steps: int) -> None:
    sigma = noise_for(epsilon, delta, WEIGHT, GRADIENT, 1.0, RATE, steps)
    rho = distance_for(WEIGHT, GRADIENT, 1.0, RATE, steps) ** 2 / (2 * sigma**2)
    orders = 1 + np.geomspace(1e-4, 1e6, 20001)
    best = (rho * orders + math.log(1 / delta) / (orders - 1)).min()
    assert best == pytest.approx(epsilon, rel=1e-3)


def test_more_privacy_takes_more_noise() -> None:
    usual = noise_for(1.0, 1e-5, WEIGHT, GRADIENT, 0.0, RATE, 10)
    assert noise_for(0.5, 1e-5, WEIGHT, GRADIENT, 0.0, RATE, 10) > usual
    assert noise_for(1.0, 1e-7, WEIGHT, GRADIENT, 0.0, RATE, 10) > usual
    assert noise_for(1.0, 1e-5, 2 * WEIGHT, GRADIENT, 0.0, RATE, 10) > usual


def test_clipping_scales_all_tensors_alike() -> None:
    tensors = [torch.full((2, 2), 3.0), torch.full((5,), 4.0)]
    clip(tensors, 1.0)
    assert math.sqrt(sum(float(each.square().sum()) for each in tensors)) == pytest.approx(1.0)
    assert float(tensors[0][0, 0] / tensors[1][0]) == pytest.approx(3 / 4)
    clip(tensors, 2.0)
    assert float(tensors[1].norm()) < 1


QUIET = {"epochs": 1, "repair_epochs": 0, "batch_size": 99, "decay": 2.0, "learning_rate": 0.1, "weight_norm": 1.0}


def test_a_step_is_that_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechforget.methods.clipped_noise.noise_for", lambda *_: 0.0)
    student = student_of(build("clipped_noise"))
    weights = list(student.parameters())
    with torch.no_grad():
        clip(weights, 1.0)
    student.train()
    logits = student(CLASS.waveform[CLASS.retain], CLASS.lengths[CLASS.retain]).logits
    gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, CLASS.labels[CLASS.retain]), weights)
    flat, gradient = parameters_to_vector(weights).detach(), torch.cat([each.flatten() for each in gradients])
    gradient = gradient * min(1.0, 0.3 / float(gradient.norm()))
    found = run(CLASS, build("clipped_noise", **{**QUIET, "gradient_norm": 0.3}))
    expected = flat - 0.1 * (gradient + 2.0 * flat)
    assert torch.allclose(parameters_to_vector(found.parameters()), expected, atol=1e-6)


def test_the_noise_is_drawn_for_each_weight_and_step_and_ends_with_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"weight_norm": 1e-9, "gradient_norm": 1e-9, "repair_learning_rate": 1e-12, "decay": 0.0}
    monkeypatch.setattr("speechforget.methods.clipped_noise.noise_for", lambda *_: 0.5)
    method = build("clipped_noise", **{**QUIET, **still, "epochs": 3, "repair_epochs": 2})
    found = parameters_to_vector(run(CLASS, method).parameters()).detach()
    assert float(found.std()) == pytest.approx(0.5 * math.sqrt(3), rel=0.2)
    assert int(method.get_buffer("step")) == 3 and method.certificate["steps"] == 3


def test_nothing_of_the_running_statistics_is_left() -> None:
    """They are the means over retain, whatever the original remembers."""
    student = student_of(build("clipped_noise"))
    before = student.norm.running_mean.clone()
    with torch.no_grad():
        student.norm.running_mean.fill_(1e6)

    def batches() -> list[Batch]:
        return list(CLASS.batches(CLASS.retain, 10))

    measure_statistics(student, batches)
    with torch.no_grad():
        features = [student.conv(student.frontend(*batch.inputs)[:, None]).mean((0, 2)) for batch in batches()]
    assert torch.allclose(student.norm.running_mean, torch.stack(features).mean(0), atol=1e-5)
    assert not torch.equal(student.norm.running_mean, before) and student.norm.momentum == 0.1
    assert torch.equal(original().norm.running_mean, before)


@pytest.mark.parametrize(
    "switch", [{"trainable": "head"}, {"retain_share": 0.5}, {"learning_rate_steps": 9}, {"curriculum": "superloss"}]
)
def test_what_would_change_a_step_is_refused(switch: dict[str, Any]) -> None:
    method = build("clipped_noise", **switch)
    with pytest.raises(NotApplicable, match="The bound of clipped_noise is about all weights and plain steps"):
        method.prepare(student_of(method), context_of(CLASS, method))


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0.0}, {"delta": 1.0}, {"epochs": 0}, {"learning_rate": 2.0, "decay": 1.0}]
)
def test_wrong_numbers_are_one_sentence(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be"):
        build("clipped_noise", **wrong)
