"""Erasers of an attribute: planted directions go, the label's direction stays, and no linear probe is left."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from support.tiny import CLASSES, SAMPLES, VALUES, build, context_of, original, prepared, student_of
from torch import Tensor, nn

from speechforget.errors import NotApplicable
from speechforget.methods.base.method import Removed
from speechforget.methods.common.erasure import Moments, least_squares_eraser, moments_of, orthogonal_eraser, weights_of
from speechforget.methods.gradient_reversal import GradientReversal, reversed_gradient
from speechforget.models.erased import Erased, erase
from speechforget.models.folder import build_classifier, load_classifier, save_classifier
from speechforget.models.tcresnet import TCResNet

ERASERS = [least_squares_eraser, orthogonal_eraser]


def moments(x: Tensor, z: Tensor) -> Moments:
    centred, values = x - x.mean(0), z - z.mean(0)
    return Moments(x.mean(0), centred.T @ values / len(x), centred.T @ centred / len(x))


def drawn(seed: int, values: int = 2, count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Return an embedding with an axis for each value of the attribute but the first, and the label's axis 1."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(values, (count,), generator=generator)
    label = torch.randint(2, (count,), generator=generator)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    for value, axis in zip(range(1, values), (0, 2, 3), strict=False):
        x[:, axis] += 6 * (number == value)
    x[:, 4] += x[:, 0]
    x[:, 1] += 6 * label
    return x, torch.nn.functional.one_hot(number, values).double(), label


@pytest.mark.parametrize("eraser", ERASERS)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_nothing_linear_is_left_and_the_label_stays(eraser: Any, seed: int, values: int) -> None:
    x, z, label = drawn(seed, values)
    weight, bias = eraser(moments(x, z))
    erased = x @ weight.T + bias
    assert float(moments(erased, z).between.abs().max()) < 1e-9
    assert torch.allclose(erased.mean(0), x.mean(0))
    gap = [float((each[label == 1].mean(0) - each[label == 0].mean(0))[1]) for each in (x, erased)]
    assert gap[1] == pytest.approx(gap[0], abs=1.0) and gap[1] > 4


def test_a_linear_probe_of_the_fitted_recordings_does_not_beat_the_majority() -> None:
    x, z, _ = drawn(0)
    number = z.argmax(1).numpy()
    majority = max(np.bincount(number)) / len(number)
    weight, bias = least_squares_eraser(moments(x, z))
    erased = (x @ weight.T + bias).numpy()
    before, after = (
        LogisticRegression(C=1e6, max_iter=1000).fit(each, number).score(each, number) for each in (x.numpy(), erased)
    )
    assert before > 0.95 and after <= majority + 1e-9


def test_the_least_change_is_least() -> None:
    """Theorem 4.3 of LEACE: no other map that erases changes the embedding less in mean square."""
    x, z, _ = drawn(1)
    change = [float(((x @ weight.T + bias - x) ** 2).mean()) for weight, bias in (e(moments(x, z)) for e in ERASERS)]
    assert change[0] < change[1]


def test_uncorrelated_axes_give_the_projection_of_the_planted_axis() -> None:
    """With cov(x, x) = I and cov(x, z) along axis 0 alone, both maps set that axis to its mean."""
    between = torch.tensor([[0.3, -0.3], [0, 0], [0, 0]], dtype=torch.float64)
    found = Moments(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64), between, torch.eye(3, dtype=torch.float64))
    for eraser in ERASERS:
        weight, bias = eraser(found)
        assert torch.allclose(weight, torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)), atol=1e-12)
        assert torch.allclose(bias, torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)


def test_a_direction_without_variance_stays_as_it_is() -> None:
    x, z, _ = drawn(2)
    x[:, 5] = 7.0
    weight, bias = least_squares_eraser(moments(x, z))
    assert torch.allclose((x @ weight.T + bias)[:, 5], x[:, 5])


def test_weights_make_label_and_attribute_independent() -> None:
    context = context_of(SAMPLES, build("leace"))
    weights = weights_of(context, VALUES, balanced=True, batch_size=4)
    counts = torch.zeros(CLASSES, 2, dtype=torch.float64)
    for label, value in zip(SAMPLES.labels.tolist(), VALUES.numbers.tolist(), strict=True):
        counts[label, value] += 1
    joint = counts * weights / counts.sum()
    assert torch.allclose(joint, joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))
    assert float(joint.sum()) == pytest.approx(1) and not torch.allclose(weights, torch.ones_like(weights))
    assert torch.equal(weights_of(context, VALUES, balanced=False, batch_size=4), torch.ones_like(weights))


def test_moments_are_those_of_the_original_and_leave_out_unknown_values() -> None:
    method = build("leace", balanced=False)
    numbers = VALUES.numbers.clone()
    numbers[:5] = -1
    removed = Removed(VALUES.names, numbers)
    found = moments_of(context_of(SAMPLES, method), removed, torch.ones(CLASSES, 2, dtype=torch.float64), 4)
    with torch.no_grad():
        x = original()(SAMPLES.waveform, SAMPLES.lengths).embedding.double()[5:]
    expected = moments(x, torch.nn.functional.one_hot(numbers[5:], 2).double())
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["leace", "eta_removal"])
def test_the_embedding_that_leaves_is_erased_and_the_head_reads_it(name: str) -> None:
    method, student = prepared(SAMPLES, name, balanced=False)
    before, after = (model(SAMPLES.waveform, SAMPLES.lengths) for model in (original(), student))
    z = torch.nn.functional.one_hot(VALUES.numbers, 2).double()
    left, was = (float(moments(each.embedding.detach().double(), z).between.abs().max()) for each in (after, before))
    assert left < 1e-4 * max(was, 1e-2) + 1e-6
    assert torch.allclose(after.logits, student.head(after.embedding))
    assert isinstance(student, Erased) and not method.passes()
    others = [key for key in original().state_dict() if key != "head.weight"]  # which `prepared` changes
    assert all(torch.equal(original().state_dict()[key], student.state_dict()[key]) for key in others)


@pytest.mark.parametrize("name", ["leace", "eta_removal", "gradient_reversal"])
def test_a_request_of_recordings_is_refused(name: str) -> None:
    from dataclasses import replace

    method = build(name)
    with pytest.raises(NotApplicable, match="task=attribute"):
        method.prepare(student_of(method), replace(context_of(SAMPLES, method), attribute=None))


def test_an_erased_model_is_saved_loaded_and_erased_again(tmp_path) -> None:
    torch.manual_seed(0)
    options = {"name": "tcresnet", "_target_": "speechforget.models.tcresnet.TCResNet", "channels": [8, 8]}
    options |= {"width": 1.0} if "width" in TCResNet.__init__.__annotations__ else {}
    classifier = build_classifier(options, 3, 8000).eval()
    weight, bias = torch.diag(torch.tensor([0.0, *[1.0] * 7])), torch.zeros(8)
    plain = classifier(sound := torch.randn(2, 4000), torch.tensor([4000, 4000])).embedding
    erase(classifier, weight, bias)
    erase(classifier, 2 * torch.eye(8), torch.ones(8))
    save_classifier(tmp_path, classifier, {"model": options, "labels": ["a", "b", "c"], "sample_rate": 8000})
    again, _ = load_classifier(tmp_path)
    output = again(sound, torch.tensor([4000, 4000]))
    assert torch.allclose(output.embedding, 2 * plain @ weight.T + 1, atol=1e-6)
    assert torch.allclose(output.logits, again.head(output.embedding)) and isinstance(again, TCResNet)
    assert not isinstance(build_classifier(options, 3, 8000), Erased)


def test_the_gradient_is_reversed_and_the_value_is_not() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    found = reversed_gradient(x, 0.5)
    assert torch.equal(found, x)
    (found * torch.tensor([3.0, 4.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([-1.5, -2.0]))


def test_the_factor_rises_from_zero_to_the_strength() -> None:
    method = build("gradient_reversal", strength=2.0)
    assert isinstance(method, GradientReversal)
    method.epochs = 10
    factors = [method.factor(epoch) for epoch in range(11)]
    assert factors[0] == 0 and factors == sorted(factors) and factors[10] == pytest.approx(2.0, rel=1e-3)


def test_the_adversary_learns_and_the_encoder_works_against_it() -> None:
    """One step of descent on the loss lowers the adversary's loss by its own weights and raises it by the encoder's."""
    method, student = prepared(SAMPLES, "gradient_reversal", balanced=False)
    assert isinstance(method, GradientReversal)
    batch = next(iter(SAMPLES.batches(torch.arange(46), 46)))

    def read() -> Tensor:
        x = (student(*batch.inputs).embedding - method.centre) / method.spread
        return nn.functional.cross_entropy(method.adversary(x.float()), VALUES.numbers)

    last = method.passes()[-1]
    label = nn.functional.cross_entropy(student(*batch.inputs).logits, batch.labels)
    loss = method.loss(student, batch, last)
    assert loss.item() == pytest.approx((label + read()).item(), rel=1e-5)
    own = torch.autograd.grad(loss, list(method.adversary.parameters()), retain_graph=True)
    plain = torch.autograd.grad(read(), list(method.adversary.parameters()))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(own, plain, strict=True))
    mixed, alone, reading = (
        torch.autograd.grad(each, student.conv.weight, retain_graph=True)[0] for each in (loss, label, read())
    )
    assert torch.allclose(mixed, alone - method.factor(last.epoch) * reading, atol=1e-5)
    assert copy.deepcopy(method).state_dict().keys() == method.state_dict().keys()
