"""Compare AMUN and both forms of UNSIR, which optimise inputs, with loops written from their formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.tiny import (
    CLASS,
    CLASSES,
    SAMPLES,
    Problem,
    build,
    context_of,
    forget_batch,
    original,
    prepared,
    student_of,
)
from torch import Tensor
from torch.nn import functional

from speechforget.batch import Batch, Pair, cut
from speechforget.errors import UserError
from speechforget.methods.amun import attack, margin, nearest
from speechforget.methods.base.driver import Driver, set_batch_norm
from speechforget.methods.base.method import Pass
from speechforget.methods.common.input_features import alike, deviation, features_of, heard, normal
from speechforget.methods.common.losses import barred
from speechforget.optimizers import make_optimizer
from speechforget.seeding import seed_from

# ---- AMUN


@pytest.mark.parametrize("radius", [0.05, 0.5])
def test_an_attack_stays_within_its_radius_and_lowers_the_margin(radius: float) -> None:
    model, batch = original(), forget_batch(SAMPLES)
    features = features_of(model, batch)
    bars = barred(batch.labels, CLASSES, ())
    scale = 2.0 * heard(model, batch, features)
    moved = attack(model, batch, features, scale, torch.full((len(features),), radius), 10, bars)
    distance = ((moved - features) / 2.0).norm(dim=1)
    assert bool((distance <= radius * (1 + 1e-5)).all()) and bool((distance > 0.5 * radius).all())
    before, after = (margin(model.classify(some, batch.inputs[1]).logits, bars) for some in (features, moved))
    assert bool((after < before).all())
    inside = heard(model, batch, features).bool()
    assert torch.equal(moved[~inside], features[~inside])


def test_bisection_finds_the_smallest_radius_that_a_search_of_all_finds() -> None:
    model, batch = original(), forget_batch(SAMPLES)
    features, bars = features_of(model, batch), barred(batch.labels, CLASSES, ())
    mask = heard(model, batch, features)
    radii = [0.02 * 1.6**step for step in range(11)]
    scale = torch.tensor(0.5)
    found, labels, missed = nearest(model, batch, scale, radii, 5, bars)
    for i in range(len(features)):
        one = cut(batch, i, i + 1)
        root = mask[i].sum().sqrt()
        for radius in radii:
            moved = attack(
                model, one, features[i : i + 1], scale * mask[i : i + 1], radius * root[None], 5, bars[i : i + 1]
            )
            answer = model.classify(moved, one.inputs[1]).logits.argmax(dim=1)
            if answer != batch.labels[i]:
                break
        assert bool(missed[i]) == bool(answer == batch.labels[i])
        torch.testing.assert_close(found[i], moved[0])
        assert missed[i] or labels[i] == answer


@pytest.mark.parametrize("problem", [SAMPLES, CLASS], ids=["sample", "class"])
def test_adversarial_labels_are_wrong_and_never_forgotten_even_if_out_of_reach(
    problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    method, _ = prepared(problem, "amun", radii=[1e-6])
    labels = method.labels(problem.forget)
    assert not bool((labels == problem.labels[problem.forget]).any())
    assert not set(labels.tolist()) & set(problem.forgotten)
    assert "no adversarial example within radius 1e-06" in caplog.text


def test_amun_hears_adversarial_examples_in_the_place_of_forget_and_retain_as_it_is() -> None:
    method, student = prepared(SAMPLES, "amun", radii=[3.0])
    rows = torch.tensor([3, 20, 5, 40])
    batch = next(SAMPLES.batches(rows, 4))
    # Augmentation may change forget utterances like this.
    quieter = batch._replace(inputs=(batch.inputs[0][:, :31] * 0.9, batch.inputs[1] - 1))
    loss = method.loss(student.eval(), quieter, Pass("mix", 4, 0.1))
    expected = 0.0
    for i, row in enumerate(rows.tolist()):
        if row in (3, 5):
            place = SAMPLES.forget.tolist().index(row)
            logits = student.classify(method.features.values[place][None], SAMPLES.lengths[row][None]).logits
            expected += float(functional.cross_entropy(logits, method.labels.values[place][None]).detach()) / 4
        else:
            logits = student(functional.pad(quieter.inputs[0][i : i + 1], [0, 1]), quieter.inputs[1][i : i + 1]).logits
            expected += float(functional.cross_entropy(logits, batch.labels[i : i + 1]).detach()) / 4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


# ---- UNSIR


def test_noise_is_learned_as_the_formula_says() -> None:
    method, _ = prepared(CLASS, "unsir", noise_steps=7)
    context = context_of(CLASS, method)
    scale = deviation(context, "retain", 4)
    first = next(iter(context.batches("retain", 4)))
    features = features_of(original(), first)[:1].expand(4, -1)
    whole = method.noise_batch(2, features, slice(None))
    mask = heard(original(), whole, features)
    noise = method.start(whole, features, mask, 2).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([noise], lr=0.1)
    for _ in range(7):
        optimizer.zero_grad()
        logits = original().classify(noise * scale * mask, torch.full((4,), int(first.inputs[1].max()))).logits
        loss = 0.0
        for i in range(4):
            loss = loss - functional.cross_entropy(logits[i], torch.tensor(2)) / 4 + 0.1 * noise[i].square().sum() / 4
        loss.backward()  # type: ignore[attr-defined]
        optimizer.step()
    original().zero_grad(set_to_none=True)
    torch.testing.assert_close(method.noise[0], noise.detach() * scale * mask)


# A whole batch, and the last one of an epoch.
@pytest.mark.parametrize("utterances", [6, 1])
def test_impairing_weighs_each_utterance_and_noise_sample_alike_and_repairing_hears_no_noise(utterances: int) -> None:
    method, student = prepared(CLASS, "unsir", batch_size=6, noise_batch_size=3)
    batch = next(CLASS.batches(CLASS.retain, utterances))
    impair, repair = method.passes()[:2]
    loss = method.loss(student.eval(), batch, impair)
    logits = torch.cat([student(*batch.inputs).logits, student.classify(method.noise[0], torch.tensor([0])).logits])
    torch.testing.assert_close(loss, functional.cross_entropy(logits, torch.cat([batch.labels, torch.full((3,), 2)])))
    torch.testing.assert_close(
        method.loss(student, batch, repair), functional.cross_entropy(logits[:utterances], batch.labels)
    )
    assert (impair.batch_norm, repair.batch_norm, repair.fresh_optimizer) == ("frozen", "train", True)


def test_classes_take_turns_and_each_pass_starts_with_the_first() -> None:
    both = Problem([row for row in range(46) if row % CLASSES in (1, 2)], (1, 2))
    method, student = prepared(both, "unsir")
    batch, impair = next(both.batches(both.retain, 4)), method.passes()[0]
    for _ in range(2):
        for noise, label in [*zip(method.noise, (1, 2), strict=True)] * 2:
            logits = torch.cat(
                [student.eval()(*batch.inputs).logits, student.classify(noise, torch.tensor([0])).logits]
            )
            expected = functional.cross_entropy(logits, torch.cat([batch.labels, torch.full((4,), label)]))
            torch.testing.assert_close(method.loss(student, batch, impair), expected)
        method.after_pass(student, 0, lambda name: 0.0)


@pytest.mark.parametrize(
    ("batch_size", "noise", "copies"), [(4, 4, 2), (6, 4, 2), (4, 5, 3), (16, 3, 2), (7, 4, 1), (64, 4, 1)]
)
def test_sequential_cuts_all_noise_and_then_retain_into_batches_across_their_borders(
    batch_size: int, noise: int, copies: int
) -> None:
    both = Problem([row for row in range(46) if row % CLASSES in (1, 2)], (1, 2))
    sizes = {
        "batch_size": batch_size,
        "noise_batch_size": noise,
        "copies": copies,
        "impair_epochs": 2,
        "repair_epochs": 1,
    }
    # Adam would amplify rounding.
    sgd = {
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "impair_learning_rate": 0.05,
        "repair_learning_rate": 0.02,
    }
    method, student = prepared(both, "unsir", order="sequential", impair_batch_norm="train", **sizes, **sgd)
    expected = copy.deepcopy(student).train()
    Driver(method, student, lambda name: 0.0).run(both.stream)

    # Two epochs. Each begins with a pass of noise alone if there is enough noise to fill a batch.
    impair = len(method.passes()) - 1
    lengths = torch.full((1,), int(next(iter(context_of(both, method).batches("retain", batch_size))).inputs[1].max()))
    for epoch in range(3):
        # The index of the pass over retain.
        index = (epoch + 1) * impair // 2 - 1 if epoch < 2 else impair
        whole = next(iter(both.shuffled(both.retain, len(both.retain), index)))
        features, labels, heard_of = expected.frontend(*whole.inputs), whole.labels, whole.inputs[1]
        if epoch < 2:
            features = torch.cat([method.noise.flatten(0, 1).repeat(copies, 1), features])
            labels = torch.cat([torch.tensor([1, 2]).repeat_interleave(noise).repeat(copies), labels])
            heard_of = torch.cat([lengths.expand(copies * 2 * noise), heard_of])
        if epoch in (0, 2):
            rate = method.impair_learning_rate if epoch == 0 else method.repair_learning_rate
            optimizer = make_optimizer(expected.parameters(), method.optimizer, rate)
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            optimizer.zero_grad()
            functional.cross_entropy(expected.classify(features[part], heard_of[part]).logits, labels[part]).backward()
            optimizer.step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_features_of_different_lengths_share_a_batch() -> None:
    long, short = alike(torch.ones(2, 3, 5), torch.ones(1, 3, 4))
    assert torch.equal(long, torch.ones(2, 3, 5)) and torch.equal(
        short, torch.tensor([1.0, 1, 1, 1, 0]).expand(1, 3, 5)
    )


def test_noise_does_not_depend_on_the_other_samples() -> None:
    few, many = (
        prepared(CLASS, "unsir", noise_batch_size=4, noise_steps=0)[0].noise,
        prepared(CLASS, "unsir", noise_batch_size=6, noise_steps=0)[0].noise,
    )
    assert torch.equal(few, many[:, :4])
    assert not np.allclose(few[0, 0], few[0, 1])


def test_unsir_refuses_samples() -> None:
    method = build("unsir")
    with pytest.raises(UserError, match="task=class"):
        method.prepare(student_of(method), context_of(SAMPLES, method))


# ---- UNSIR for samples


def a_pair(forget: int, retain: int) -> Pair:
    others = next(SAMPLES.batches(torch.tensor([20, 31, 42, 13]), 4))
    return Pair(cut(forget_batch(SAMPLES), 0, forget), cut(others, 0, retain))


def unlike(student, batch: Batch, first: Tensor, scale: Tensor, steps: int, batch_size: int) -> Tensor:
    """Train noise from `first` as the formula says, one utterance after the other."""
    found = []
    for i in range(len(first)):
        one = cut(batch, i, i + 1)
        noise = first[i : i + 1].clone().requires_grad_(True)
        optimizer = torch.optim.Adam([noise], lr=0.01)
        with torch.no_grad():
            wanted = student(*one.inputs).logits[0]
        for _ in range(steps):
            optimizer.zero_grad()
            logits = student.classify(noise * scale[i : i + 1], one.inputs[1]).logits[0]
            distance = sum((logits[k] - wanted[k]) ** 2 for k in range(CLASSES)) / CLASSES
            (-distance / batch_size).backward()  # type: ignore[attr-defined]
            optimizer.step()
        found.append(noise.detach() * scale[i : i + 1])
    student.zero_grad(set_to_none=True)
    return torch.cat(found)


def test_noise_for_samples_moves_away_from_each_utterances_logits_and_leaves_the_student_as_it_is() -> None:
    method, student = prepared(SAMPLES, "unsir_samples", noise_steps=6, batch_size=4)
    batch = cut(forget_batch(SAMPLES), 0, 4)
    features = features_of(student, batch)
    mask = heard(student, batch, features)
    first = normal(batch.rows, features, mask, seed_from(5, "unsir_samples", 3))
    scale = deviation(context_of(SAMPLES, method), "forget", 4) * mask
    set_batch_norm(student, "batch")
    noise = method.noise(student, batch, 3)
    assert student.training and student.norm.training and not student.norm.track_running_stats
    assert all(parameter.grad is None for parameter in student.parameters())
    student.eval()
    torch.testing.assert_close(noise, unlike(student, batch, first, scale, 6, 4))
    logits = [student.classify(some, batch.inputs[1]).logits for some in (first * scale, noise)]
    before, after = ((some - student(*batch.inputs).logits).square().mean(dim=1) for some in logits)
    assert bool((after > before).all())
    assert torch.equal(noise[~mask.bool()], torch.zeros_like(noise[~mask.bool()]))
    torch.testing.assert_close(method.noise(student, cut(batch, 2, 3), 3), noise[2:3])


@pytest.mark.parametrize(("forget", "retain"), [(4, 4), (1, 4), (4, 3)])
def test_impairing_teaches_the_noise_the_labels_of_retain(forget: int, retain: int) -> None:
    method, student = prepared(SAMPLES, "unsir_samples", batch_size=4)
    pair, used = a_pair(forget, retain), min(forget, retain)
    impair, repair = method.passes()
    assert pair.forget is not None
    noise = method.noise(student.eval(), cut(pair.forget, 0, used), 0)
    noisy = student.classify(noise, pair.forget.inputs[1][:used]).logits
    heard_retain = functional.cross_entropy(student(*pair.retain.inputs).logits, pair.retain.labels)
    expected = heard_retain + functional.cross_entropy(noisy, pair.retain.labels[:used])
    torch.testing.assert_close(method.loss(student, pair, impair), expected)
    torch.testing.assert_close(method.loss(student, pair.retain, repair), heard_retain)
    assert (impair.stream, impair.length, impair.batch_norm) == ("both", "forget", "frozen")
    assert (repair.stream, repair.batch_norm, repair.fresh_optimizer) == ("retain", "train", True)


def test_unsir_for_samples_without_an_impair_pass_is_one_sentence() -> None:
    with pytest.raises(UserError, match="impair_epochs must be at least 1"):
        build("unsir_samples", impair_epochs=0)
