"""Compare methods that balance forget and retain with loops written from their formulas."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import CLASS, SAMPLES, Problem, accuracy, build, context_of, original, run, student_of
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch, Pair
from speechforget.errors import UserError
from speechforget.methods import munba
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Pass
from speechforget.methods.lotus import gumbel, targets
from speechforget.methods.munba import bargain, joined
from speechforget.methods.sfron import eased, place

SGD = {"name": "sgd"}


def flat(model: torch.nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach()


def prepared(name: str, problem: Problem = SAMPLES, **changes: Any) -> tuple[Any, Any]:
    """Return the method and the student before the first pass."""
    method = build(name, **changes)
    student = student_of(method)
    method.prepare(student, context_of(problem, method))
    return method, student


# ---- negative gradient


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_negative_gradient_is_its_formula(mode: str) -> None:
    chosen = {
        "retain_weight": 0.8,
        "forget_weight": 0.3,
        "learning_rate": 0.05,
        "optimizer": SGD,
        "clip": None,
        "batch_norm": mode,
    }
    student = run(SAMPLES, build("negative_gradient", **chosen))
    expected = copy.deepcopy(original()).train()
    expected.norm.train(mode == "train")
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for epoch in range(2):
        for pair in SAMPLES.stream(Pass("both", 4, 0.05, length="retain"), epoch):
            losses = [
                functional.cross_entropy(expected(*half.inputs).logits, half.labels)
                for half in (pair.retain, pair.forget)
            ]
            optimizer.zero_grad()
            (0.8 * losses[0] - 0.3 * losses[1]).backward()
            optimizer.step()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], value)


def test_a_weight_below_zero_is_a_mistake() -> None:
    with pytest.raises(UserError, match="forget_weight must not be below 0"):
        build("negative_gradient", forget_weight=-0.1)


# ---- MUNBa

vectors = st.lists(st.floats(-9, 9), min_size=3, max_size=3)


@given(vectors, vectors)
def test_a_bargain_solves_nash_s_equation(one: list[float], two: list[float]) -> None:
    gradients = torch.tensor([one, two], dtype=torch.float64)
    sizes = gradients.norm(dim=1)
    cosine = float(gradients[0] @ gradients[1] / sizes.prod()) if sizes.prod() > 0 else -1.0
    found = torch.tensor(bargain(*gradients, 0.25), dtype=torch.float64)
    if sizes.min() < 1e-3 or cosine < -0.999:
        return
    torch.testing.assert_close(gradients @ gradients.T @ found, 1 / found, rtol=1e-9, atol=0)
    assert float((found[:, None] * gradients).sum(dim=0).norm()) == pytest.approx(math.sqrt(2), rel=1e-9)
    g11, g22, g12 = float(sizes[0] ** 2), float(sizes[1] ** 2), float(gradients[0] @ gradients[1])
    if 1e-3 < abs(cosine) < 0.999:  # where the public code's closed form is stable
        first = math.sqrt((g11 * g22 - g12 * math.sqrt(g11 * g22)) / (g11**2 * g22 - g11 * g12**2))
        assert found.tolist() == pytest.approx([first, (1 - g11 * first**2) / (g12 * first)], rel=1e-6)


@pytest.mark.parametrize("forget", [[-2.0, -4.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_where_no_bargain_is_to_be_had_the_fallback_is_taken(forget: list[float]) -> None:
    assert bargain(torch.tensor([1.0, 2.0]), torch.tensor(forget), 0.25) == (1.0, 0.25)


def pair() -> Pair:
    return next(iter(SAMPLES.stream(Pass("both", 8, 0.1), 0)))


def wrong(batch: Batch) -> Tensor:
    return (batch.labels + 1) % 4


def means(student: torch.nn.Module, step: Pair) -> list[Tensor]:
    """Compute the two losses, or the parts of them that this share holds."""
    found = []
    for half, labels in ((step.retain, step.retain.labels), (step.forget, wrong(step.forget))):  # type: ignore[arg-type]
        values = functional.cross_entropy(student(*half.inputs).logits, labels, reduction="none")  # type: ignore[union-attr]
        found.append(values.mean() if half.weights is None else (values * half.weights).sum())  # type: ignore[union-attr]
    return found


def gradient(loss: Tensor, student: torch.nn.Module) -> Tensor:
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(student.parameters()))])


def share(batch: Batch, number: int) -> Batch:
    mine = slice(number, None, 2)
    parts = [part[mine] for part in (batch.labels, batch.rows, batch.forget)]
    weights = torch.full((len(parts[0]),), 1 / len(batch.rows), dtype=torch.float64)
    return Batch(tuple(part[mine] for part in batch.inputs), *parts, weights)


def test_a_joint_step_has_the_weighted_loss_s_value_and_gradient_also_in_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, step = copy.deepcopy(original()).double(), pair()
    step = Pair(*(half._replace(inputs=(half.inputs[0].double(), half.inputs[1])) for half in step))  # type: ignore[union-attr]
    whole = torch.stack([gradient(loss, student) for loss in means(student, step)])
    first, second = bargain(*whole, 0.1)
    found = joined(student, *means(student, step), 0.1)
    expected = first * whole[0] + second * whole[1]
    torch.testing.assert_close(gradient(found, student), expected)
    assert float(found.detach()) == pytest.approx(
        float(sum(a * loss.detach() for a, loss in zip((first, second), means(student, step), strict=True)))
    )

    monkeypatch.setattr(munba.collectives, "total", lambda _: whole)  # what all ranks have together
    parts = [
        joined(student, *means(student, Pair(*(share(half, number) for half in step))), 0.1) for number in range(2)
    ]  # type: ignore[arg-type]
    torch.testing.assert_close(gradient(parts[0], student) + gradient(parts[1], student), expected)
    assert float((parts[0] + parts[1]).detach()) == pytest.approx(float(found.detach()))


def test_munba_learns_wrong_labels_and_goes_on_with_retain_alone() -> None:
    method, student = prepared("munba", CLASS)
    steps = list(CLASS.stream(method.passes()[0], 0))
    assert sum(step.forget is not None for step in steps) == 3 < len(steps)
    for step in steps:
        loss = method.loss(student, step, method.passes()[0])
        assert method.norm_allowed() == (None if step.forget is None else 1.0)
        plain = functional.cross_entropy(student(*step.retain.inputs).logits, step.retain.labels)
        assert torch.allclose(loss, plain, rtol=1e-5) == (
            step.forget is None
        )  # two ways to take one mean, which round apart on some processors
        if step.forget is not None:
            assert not bool(torch.isin(method.draw(step.forget, 0), torch.tensor(CLASS.forgotten)).any())
    for redraw in (True, False):
        method, _ = prepared("munba", redraw=redraw)
        batch = next(SAMPLES.batches(SAMPLES.retain, 30))
        assert torch.equal(method.draw(batch, 0), method.draw(batch, 1)) != redraw


# ---- SFRon


@given(st.integers(1, 6), st.integers(1, 20))
def test_places_are_those_of_the_stream(every: int, iterations: int) -> None:
    expected = [(t, forgets) for t in range(iterations) for forgets in ([True, False] if t % every == 0 else [False])]
    assert [place(step, every) for step in range(len(expected))] == expected
    stream = SAMPLES.stream(Pass("turns", 4, 0.1, length=iterations, every=every), 0)
    assert [bool(batch.forget.all()) for batch in stream] == [forgets for _, forgets in expected]


def test_sfron_s_rates_fall_as_a_cosine_over_all_epochs() -> None:
    method, _ = prepared("sfron", learning_rate=0.4, every=2)
    each = math.ceil(len(SAMPLES.retain) / 4)
    rates = [
        current.rate(step)
        for current in method.passes()
        for step in range(each + math.ceil(each / 2))
        if not place(step, 2)[1]
    ]
    np.testing.assert_allclose(
        rates, [0.2 * (1 + math.cos(math.pi * t / (2 * each))) for t in range(2 * each)], rtol=1e-12
    )


@pytest.mark.parametrize("hard", [True, False])
def test_what_is_masked_stays_in_forget_steps_if_the_mask_is_hard(hard: bool) -> None:
    optimizer = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
    method, student = prepared("sfron", hard_mask=hard, every=1, optimizer=optimizer, threshold=1.0)
    driver = Driver(method, student, lambda _: 0.0)
    stepper, mask = driver.make_optimizer(), method.mask
    assert 0.05 < float(mask.double().mean()) < 0.95
    driver.start_pass(0, stepper)
    for number, batch in enumerate(itertools.islice(SAMPLES.stream(driver.plan[0], 0), 6)):
        before = flat(student)
        stepper.zero_grad()
        driver.loss(batch, 0).backward()
        driver.after_backward(0, stepper)
        stepper.step()
        driver.after_step()
        moved = flat(student) != before
        if number % 2 == 0:
            assert bool(moved[mask].any())
            assert bool(moved[~mask].any()) != hard
        else:
            assert bool(moved[~mask].any())


def test_the_mask_compares_squared_gradients_over_batches() -> None:
    method, _ = prepared("sfron", threshold=2.0)
    found = []
    for rows in (SAMPLES.forget, SAMPLES.kept(1.0)):
        model = copy.deepcopy(original())
        parts = [
            gradient(functional.cross_entropy(model(*batch.inputs).logits, batch.labels), model)
            for batch in SAMPLES.batches(rows, 4)
        ]
        found.append(torch.stack(parts).double().square().mean(dim=0))
    ratio = (found[0] + 1e-15) / (found[1] + 1e-15)
    clear = (ratio / 2 - 1).abs() > 1e-4
    assert torch.equal(method.mask[clear], (ratio >= 2)[clear])


@pytest.mark.parametrize("easing", [0.0, 0.5, 1.0])
def test_sfron_climbs_the_loss_of_what_is_known_well_most(easing: float) -> None:
    method, student = prepared("sfron", easing=easing, alpha=3.0)
    batch = next(SAMPLES.batches(SAMPLES.forget, 4))
    losses = functional.cross_entropy(student(*batch.inputs).logits, batch.labels, reduction="none").tolist()
    inverse = [1 / (loss**easing + 1e-15) for loss in losses]
    expected = -3.0 * sum(weight / sum(inverse) * loss for weight, loss in zip(inverse, losses, strict=True))
    assert method.loss(student, batch, method.passes()[0]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("known", [1, 3, 8])
def test_sfron_s_forget_step_does_not_vanish_where_losses_are_zero(known: int) -> None:
    """In float32 the loss of a logit that is far ahead is exactly 0, and so is its gradient."""
    logits = torch.linspace(-0.5, 0.5, 8)[:, None] * torch.tensor([1.0, -1.0])
    logits[:known, 0] += 200
    logits.requires_grad_(True)
    batch, one = (next(SAMPLES.batches(torch.arange(size), size)) for size in (8, 1))
    values = functional.cross_entropy(logits, torch.zeros(8, dtype=torch.int64), reduction="none")
    (plain,) = torch.autograd.grad(values.mean(), logits, retain_graph=True)
    for easing in (0.5, 1.0, 40.0):
        weight = eased(values.detach(), batch, easing)
        assert float(weight.mean()) == pytest.approx(1, rel=1e-6)
        assert bool((weight <= weight.mean() * 8 / 2 * (1 + 1e-6)).all())
        if known == 8:
            assert torch.equal(weight, torch.ones(8))
            continue
        (weighted,) = torch.autograd.grad((weight * values).mean(), logits, retain_graph=True)
        assert float(weighted.norm()) > (8 - known) / (8 + 99 * known) / 2 * float(plain.norm())
        assert torch.equal(eased(values.detach()[:1], one, easing), torch.ones(1))


def test_blending_keeps_part_of_the_weights_after_the_last_iteration() -> None:
    chosen: dict[str, Any] = {
        "every": 2,
        "epochs": 1,
        "iterations": 1,
        "optimizer": SGD,
        "learning_rate": 0.05,
        "clip": None,
    }
    plain, blended = (run(SAMPLES, build("sfron", **chosen, blend=blend)) for blend in (1.0, 0.3))
    torch.testing.assert_close(flat(blended), 0.3 * flat(plain) + 0.7 * flat(original()))


def test_sfron_s_numbers_must_mean_something() -> None:
    for changes, hint in [
        ({"every": 0}, "every must be at least 1"),
        ({"blend": 0.0}, "blend"),
        ({"blend": 1.5}, "blend"),
    ]:
        with pytest.raises(UserError, match=hint):
            build("sfron", **changes)


# ---- LoTUS


def test_hard_targets_are_samples_of_what_the_original_says() -> None:
    logits, count = torch.tensor([2.0, 0.5, -1.0, 0.0]), 40000
    noise = gumbel(torch.arange(count), torch.zeros(count, 4), 1, 0)
    drawn = targets(logits.expand(count, 4), noise, torch.zeros(count, dtype=torch.bool), 3.0)
    assert bool((drawn.sum(dim=1) == 1).all()) and bool(((drawn == 0) | (drawn == 1)).all())
    torch.testing.assert_close(drawn.mean(dim=0), logits.softmax(dim=0), atol=0.01, rtol=0)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01) and float(noise.var()) == pytest.approx(
        math.pi**2 / 6, rel=0.02
    )


def test_noise_depends_on_seed_epoch_and_utterance_alone() -> None:
    rows = torch.tensor([5, 900, 17])
    found = gumbel(rows, torch.zeros(3, 4), 1, 2)
    assert torch.equal(gumbel(rows.flip(0), torch.zeros(3, 4), 1, 2).flip(0), found)
    assert not torch.equal(gumbel(rows, torch.zeros(3, 4), 1, 3), found) and not torch.equal(
        gumbel(rows, torch.zeros(3, 4), 2, 2), found
    )


@given(st.floats(0.1, 50))
def test_soft_targets_are_blurred_by_the_temperature(temperature: float) -> None:
    logits, noise = (
        torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64),
        torch.tensor([[0.2, -0.4, 1.1]], dtype=torch.float64),
    )
    exponentials = [math.exp(value / temperature) for value in (3.2, 0.6, 1.1)]
    found = targets(logits, noise, torch.tensor([True]), temperature)[0].tolist()
    assert found == pytest.approx([value / sum(exponentials) for value in exponentials], rel=1e-9)


def test_lotus_minds_how_well_forget_is_known_and_stops_when_it_is_known_worse_than_unseen_speech() -> None:
    method, student = prepared("lotus", epochs=5, margin=0.05)
    seen = accuracy(SAMPLES, student, method)
    assert method.known.tolist() == [seen("forget"), seen("validation")]
    unseen, asked = seen("validation"), iter([1.0, seen("validation") - 0.04, seen("validation") - 0.06])
    gaps = []

    def evaluate(name: str) -> float:
        assert name == "forget"
        gaps.append(next(asked))
        return gaps[-1]

    Driver(method, student, evaluate).run(SAMPLES.stream)
    assert len(gaps) == 3 and gaps[0] == 1.0
    assert method.gap == pytest.approx(gaps[-1] - unseen)


def test_lotus_asks_for_validation_only_where_it_compares_with_it() -> None:
    for problem in (CLASS, SAMPLES):
        method = build("lotus")
        context = context_of(problem, method)
        empty = replace(
            context,
            batches=lambda name, size, context=context: [] if name == "validation" else context.batches(name, size),
        )
        if problem is CLASS:
            method.prepare(student_of(method), empty)
            assert method.gap == 1.0
        else:
            with pytest.raises(UserError, match=r"raise dataset\.validation"):
                method.prepare(student_of(method), empty)
