"""Compare retain-side methods and controls with plain loops, and test the properties of their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.facts import F, R
from support.tiny import CLASS, SAMPLES, Tiny, build, context_of, original, run, student_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from speechforget import seeding
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.epochs import Epochs, rate
from speechforget.methods.base.method import Method
from speechforget.methods.common.layers import last_layers
from speechforget.methods.kernel_reversal import turned
from speechforget.methods.msg import difference
from speechforget.methods.negate_layer import executed
from speechforget.models.classifier import Output


def prepared(method: Method, problem=SAMPLES) -> Tiny:
    """Return the student after the one-shot work."""
    student = student_of(method)
    method.prepare(student, context_of(problem, method))
    return student


def flat(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach()


# ---- schedules


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [0.4, 0.7, 1, 0.7, 0.4]),
        (
            "cosine",
            [1, 0.55 + 0.45 * math.cos(0.2 * math.pi), 0.55 + 0.45 * math.cos(0.4 * math.pi), 0.41094235, 0.18594235],
        ),
        ("restarts", [1, 1, 0.55, 1, 0.55 + 0.45 * math.cos(math.pi / 4)]),
    ],
)
def test_schedules(schedule: str, expected: Sequence[float]) -> None:
    plan = Epochs(1.0, 5, 4, {"name": "sgd"}, "train", schedule, 0.1).passes()  # type: ignore[arg-type]
    np.testing.assert_allclose([current.rate(0) for current in plan], expected, atol=1e-7)
    assert [current.epoch for current in plan] == list(range(5))


@given(st.sampled_from(["constant", "linear", "cosine", "restarts"]), st.integers(1, 40), st.floats(0, 1))
def test_rates_stay_between_the_ends_and_reach_the_highest(schedule: str, epochs: int, lowest: float) -> None:
    rates = [rate(schedule, epoch, epochs, 1.0, lowest) for epoch in range(epochs)]  # type: ignore[arg-type]
    assert min(rates) >= lowest - 1e-12 and max(rates) <= 1 + 1e-12
    if schedule != "linear" or epochs % 2:
        assert math.isclose(max(rates), 1.0)


def test_a_mistake_is_one_sentence() -> None:
    for name, changes, hint in [
        ("cf_k", {"schedule": "cosin"}, "cosine"),
        ("eu_k", {"minimum": 1.0}, "learning_rate"),
        ("cf_k", {"k": 0}, "from 1 to 2"),
        ("eu_k", {"k": 3}, "from 1 to 2"),
        ("l1_sparse", {"gamma": -1.0}, "gamma"),
        ("l1_sparse", {"epochs_without": 3}, "epochs_without"),
        ("negate_layer", {"layers": ["cov"]}, "conv"),
        ("msg", {"reset_share": 1.5}, "reset_share"),
        ("msg", {"optimizer": {"name": "adamw"}}, "kept_factor=1"),
        ("noise", {"size": -0.1}, "at least 0"),
    ]:
        with pytest.raises(UserError, match=hint):
            prepared(build(name, **changes))


# ---- l1-sparse


def test_l1_sparse_is_fine_tuning_on_a_loss_with_a_fading_penalty() -> None:
    changes = {
        "gamma": 0.01,
        "epochs": 4,
        "epochs_without": 1,
        "learning_rate": 0.02,
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "clip": 0.5,
    }
    student = run(SAMPLES, build("l1_sparse", **changes))
    expected = copy.deepcopy(original()).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.02, momentum=0.9)
    for epoch, gamma in enumerate([0.01, 0.01 * 2 / 3, 0.01 / 3, 0.0]):
        for batch in SAMPLES.shuffled(SAMPLES.retain, 4, epoch):
            optimizer.zero_grad()
            penalty = sum(weight.abs().sum() for weight in expected.parameters())
            (functional.cross_entropy(expected(*batch.inputs).logits, batch.labels) + gamma * penalty).backward()
            nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
            optimizer.step()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], value)


def test_the_penalty_counts_once_and_leaves_frozen_weights_alone() -> None:
    """Gradients are summed over processes before `after_backward`, so the penalty is added after the sum."""
    method, student = build("l1_sparse", gamma=0.5), copy.deepcopy(original())
    student.conv.bias.requires_grad_(False)
    student.norm.weight.data[0] = 0.0
    driver = Driver(method, student, lambda name: 0.0)
    driver.loss(next(SAMPLES.batches(SAMPLES.retain, 4)), 0).backward()
    before = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    method.after_backward(student)
    assert student.conv.bias.grad is None
    for name, gradient in before.items():
        torch.testing.assert_close(
            student.get_parameter(name).grad - gradient, 0.5 * student.get_parameter(name).detach().sign()
        )


# ---- CF-k and EU-k


class Deep(nn.Module):
    """Layers of every kind that k counts or skips; a block counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [
                nn.Conv1d(1, 4, 3),
                nn.BatchNorm1d(4),
                nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)),
                nn.LayerNorm(4),
                nn.Linear(4, 3),
            ]
        )

    def layers(self) -> list[nn.Module]:
        return list(self.parts)


@pytest.mark.parametrize(("k", "start"), [(1, 4), (2, 2), (3, 0)])
def test_normalisations_come_along_and_are_not_counted(k: int, start: int) -> None:
    model = Deep()
    assert last_layers(model, k) == model.layers()[start:]


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_only_the_last_layers_move(name: str) -> None:
    student = run(SAMPLES, build(name, k=1))
    before, after = original().state_dict(), student.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_frozen_batch_norm_follows_the_data_only_if_asked(name: str) -> None:
    student = run(SAMPLES, build(name, k=1, frozen_batch_norm="train"))
    assert not torch.equal(student.norm.running_mean, original().norm.running_mean)
    assert torch.equal(student.norm.weight, original().norm.weight)


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_what_was_frozen_stays_frozen_and_keeps_its_value(name: str) -> None:
    method = build(name, k=2)
    student = copy.deepcopy(original())
    student.conv.requires_grad_(False)
    method.prepare(student, context_of(SAMPLES, method))
    assert not student.conv.weight.requires_grad
    assert torch.equal(student.conv.weight, original().conv.weight)
    student.head.requires_grad_(False)
    with pytest.raises(UserError, match="raise k"):
        build(name, k=1).prepare(student, context_of(SAMPLES, method))


@pytest.mark.parametrize("reset_norms", [False, True])
def test_eu_k_begins_again(reset_norms: bool) -> None:
    method = build("eu_k", k=2, reset_norms=reset_norms)
    student, fresh = prepared(method), Tiny(99)
    for layer in ("conv", "head"):
        assert torch.equal(student.get_submodule(layer).weight, fresh.get_submodule(layer).weight)
        assert torch.equal(student.get_submodule(layer).bias, fresh.get_submodule(layer).bias)
    source = fresh if reset_norms else original()
    for key, value in student.norm.state_dict().items():
        assert torch.equal(value, source.norm.state_dict()[key])


# ---- NoT


class Kinds(Tiny):
    """One batch-norm takes a convolution's output, the other does not; and layers are not executed as defined."""

    def __init__(self) -> None:
        super().__init__(3)
        self.second_norm, self.second = nn.BatchNorm1d(6), nn.Conv1d(6, 6, 3)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        x = self.second_norm(self.second(self.norm(self.conv(features[:, None]))).relu())
        return Output(self.head(x.mean(dim=2)), x.mean(dim=2))


def test_layers_are_seen_in_execution_with_the_batch_norm_that_takes_their_output() -> None:
    model = Kinds()
    seen = executed(model, next(SAMPLES.batches(SAMPLES.retain, 2)))
    assert list(seen) == ["conv", "second", "head"]
    assert list(seen.values()) == [model.norm, None, None]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("negate_mean", [True, False])
def test_negation_turns_the_sign_of_what_batch_norm_makes(negate_mean: bool) -> None:
    """Compare without scale and shift, which do not belong to the normalisation."""
    method = build("negate_layer", negate_mean=negate_mean)
    student = prepared(method)
    x = SAMPLES.waveform[:5, None]

    def normal(model: Tiny) -> Tensor:
        return ((model.norm.eval()(model.conv(x)) - model.norm.bias[:, None]) / model.norm.weight[:, None]).detach()

    opposite = torch.allclose(normal(student), -normal(original()), atol=1e-4)
    assert opposite == negate_mean
    assert torch.equal(student.conv.weight, -original().conv.weight) and torch.equal(
        student.conv.bias, -original().conv.bias
    )
    assert torch.equal(student.head.weight, original().head.weight)


@pytest.mark.parametrize(
    ("layers", "turned_round"), [(["head"], {"head"}), (["conv", "head"], {"conv", "head"}), ([], {"conv"})]
)
def test_only_the_layers_named_are_negated(layers: list[str], turned_round: set[str]) -> None:
    student = prepared(build("negate_layer", layers=layers))
    for name in ("conv", "head"):
        sign = -1 if name in turned_round else 1
        assert torch.equal(student.get_submodule(name).weight, sign * original().get_submodule(name).weight)


def test_the_first_layer_that_can_move_is_negated() -> None:
    student = prepared(build("negate_layer", trainable="head"))
    assert torch.equal(student.conv.weight, original().conv.weight)
    assert torch.equal(student.head.weight, -original().head.weight)


# ---- MSG


def test_the_difference_of_gradients_is_that_of_a_plain_loop() -> None:
    method = build("msg", mask_batch_size=3)
    context = context_of(CLASS, method)
    chosen = torch.from_numpy(seeding.order(CLASS.retain.numpy(), context.seed, "msg")[:F])
    assert len(set(chosen.tolist())) == F < R
    model = copy.deepcopy(original())
    loss = sum(
        sign * functional.cross_entropy(model(CLASS.waveform[rows], CLASS.lengths[rows]).logits, CLASS.labels[rows])
        for sign, rows in ((1, chosen), (-1, CLASS.forget))
    )
    loss.backward()  # type: ignore[union-attr]
    found = difference(context, 3)
    assert set(found) == {"conv", "head"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_submodule(name).weight.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_smallest_gradients_of_each_layer_begin_anew(share: float) -> None:
    method = build("msg", reset_share=share)
    student, fresh = prepared(method, CLASS), Tiny(99)
    telling = difference(context_of(CLASS, method), 4)
    for name, gradient in telling.items():
        now, before, new = (
            model.get_submodule(name).weight.detach().reshape(-1) for model in (student, original(), fresh)
        )
        least = torch.argsort(gradient.abs().reshape(-1), stable=True)
        count = math.floor(share * len(least))
        assert torch.equal(now[least[:count]], new[least[:count]])
        assert torch.equal(now[least[count:]], before[least[count:]])
    for key in ("conv.bias", "norm.weight", "norm.running_mean", "head.bias"):
        assert torch.equal(student.state_dict()[key], original().state_dict()[key])
    assert int(method.get_buffer("kept").sum()) == sum(
        weight.numel() - math.floor(share * weight.numel()) for weight in telling.values()
    )


def test_kept_kernels_get_a_share_of_their_gradient() -> None:
    method = build("msg", reset_share=0.5, kept_factor=0.1)
    student = prepared(method)
    for weight in student.parameters():
        weight.grad = torch.ones_like(weight)
    method.after_backward(student)
    gradients = parameters_to_vector([weight.grad for weight in student.parameters() if weight.grad is not None])
    kept = method.get_buffer("kept")
    assert torch.equal(gradients, torch.where(kept, 0.1, 1.0))
    moved = flat(student) != flat(original())
    assert not bool((kept & moved).any())


# ---- kernel reversal


@given(st.sampled_from([(3, 2, 5), (2, 2, 1), (4, 1, 3, 3), (2, 3, 3, 5), (2, 2, 5, 1)]), st.integers(0, 5))
def test_turning_a_kernel_twice_gives_it_back(shape: tuple[int, ...], seed: int) -> None:
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = turned(kernel)
    assert torch.equal(turned(found), kernel)
    assert torch.equal(found.reshape(-1).sort()[0], kernel.reshape(-1).sort()[0])
    if shape[-1] > 1:
        assert not torch.equal(found, kernel)


def test_a_turned_kernel_hears_time_backwards() -> None:
    x, kernel = torch.randn(2, 3, 20), torch.randn(4, 3, 5)
    torch.testing.assert_close(functional.conv1d(x, turned(kernel)), functional.conv1d(x.flip(2), kernel).flip(2))
    x, kernel = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(
        functional.conv2d(x, turned(kernel)), functional.conv2d(x.transpose(2, 3), kernel).transpose(2, 3)
    )
    x, kernel = torch.randn(2, 3, 9, 20), torch.randn(4, 3, 3, 5)
    torch.testing.assert_close(functional.conv2d(x, turned(kernel)), functional.conv2d(x.flip(3), kernel).flip(3))


def test_only_kernels_are_turned() -> None:
    student = prepared(build("kernel_reversal"))
    assert torch.equal(student.conv.weight, original().conv.weight.flip(2))
    same = set(student.state_dict()) - {"conv.weight"}
    assert all(torch.equal(student.state_dict()[key], original().state_dict()[key]) for key in same)


def test_a_model_without_kernels_to_turn_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="convolutions"):
        prepared(build("kernel_reversal", trainable="head"))


@pytest.mark.parametrize("name", ["eu_k", "msg", "negate_layer"])
def test_low_rank_updates_have_nothing_to_edit(name: str) -> None:
    method = build(name)
    method.trainable = "lora"
    with pytest.raises(NotApplicable, match="low-rank"):
        method.prepare(copy.deepcopy(original()), context_of(SAMPLES, method))


# ---- noise


def test_noise_is_of_the_size_of_each_tensors_spread_and_nothing_else_moves() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(200, 200), nn.BatchNorm1d(200)
            nn.init.normal_(self.first.weight, 3.0, 0.5)

    student, method = Wide(), build("noise", size=0.4)
    before = copy.deepcopy(student)
    method.prepare(student, context_of(SAMPLES, method))
    change = (student.first.weight - before.first.weight).detach()
    assert math.isclose(float(change.std()), 0.4 * 0.5, rel_tol=0.05) and abs(float(change.mean())) < 0.01
    assert all(torch.equal(value, before.norm.state_dict()[key]) for key, value in student.norm.state_dict().items())


@settings(max_examples=15)
@given(st.floats(0, 3), st.floats(0, 5))
def test_matched_noise_has_the_norm_asked_for_whatever_the_size(match: float, size: float) -> None:
    student = prepared(build("noise", match=match, size=size))
    change = (flat(student) - flat(original())).norm()
    torch.testing.assert_close(change, match * flat(original()).norm(), rtol=1e-4, atol=1e-5)


def test_noise_depends_on_the_seed_alone() -> None:
    one, other = (prepared(build("noise"), problem) for problem in (SAMPLES, CLASS))
    assert torch.equal(flat(one), flat(other))
    assert not torch.equal(flat(one), flat(original()))


# ---- head only


def test_head_only_moves_the_head_alone() -> None:
    student = run(SAMPLES, build("head_only"))
    before, after = original().state_dict(), student.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}
