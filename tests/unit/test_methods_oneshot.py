"""Compare methods that edit the weights at once with naive computations, and test what an edit never touches."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support import encoders
from support.tiny import CLASS, CLASSES, SAMPLES, Problem, Tiny, build, context_of, options_of, original, run
from test_methods import Recorder
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from speechforget.batch import Batch
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.method import Context, Method
from speechforget.methods.common import importance
from speechforget.methods.common.importance import (
    PerUtterance,
    absolute_output_gradients,
    flat,
    movable,
    squared_gradients,
    squared_sample_gradients,
    threshold,
)
from speechforget.methods.common.losses import cross_entropy
from speechforget.methods.fisher import TINY, Fisher
from speechforget.methods.influence import Influence, solve
from speechforget.models.folder import build_classifier
from speechforget.stages.unlearn import build_method
from speechforget.training.cost_meter import Cost

CONF = Path(__file__).parents[2] / "conf"
NAMES = ["ssd", "lfssd", "assd", "fisher", "influence"]


def gradients_of(model: nn.Module, value: Tensor) -> Tensor:
    return parameters_to_vector(torch.autograd.grad(value, list(model.parameters())))


def rows_of(problem: Problem, name: str) -> Tensor:
    return {"forget": problem.forget, "retain": problem.kept(1.0), "train": torch.arange(46)}[name]


def cross_entropies(model: nn.Module, problem: Problem, rows: Tensor) -> Tensor:
    return cross_entropy(model(problem.waveform[rows], problem.lengths[rows]).logits, problem.labels[rows])


def exact_model() -> Tiny:
    """Return the original in float64.

    It is sure of most answers, and 1 - p of a sure answer keeps few digits in float32.
    The error of a mean gradient would be up to 3e-5 of its largest entry, and differ between processors.
    """
    return copy.deepcopy(original()).double()


def alone(problem: Problem, name: str) -> Tensor:
    """Compute the gradient of each utterance's cross-entropy, (utterances, parameters), one by one in float64."""
    model, exact = exact_model(), problem.double()
    return torch.stack(
        [gradients_of(model, cross_entropies(model, exact, row[None])[0]) for row in rows_of(problem, name)]
    )


def exact_context(problem: Problem, method: Method) -> Context:
    return replace(context_of(problem.double(), method), original=exact_model())


def context(problem: Problem, *needs: str) -> Context:
    method = Recorder()
    method.needs = frozenset(needs or ("forget", "retain"))
    return exact_context(problem, method)


def close(ours: Tensor, expected: Tensor) -> bool:
    """Compare two float64 tensors: they may differ by the order of sums."""
    assert ours.dtype == expected.dtype == torch.float64
    return torch.allclose(ours, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


# ---- importances


def test_importances_over_batches_are_those_of_a_plain_loop() -> None:
    model, exact = exact_model(), SAMPLES.double()
    squares, sizes = [], []
    for rows in torch.arange(46).split(5):
        squares.append(gradients_of(model, cross_entropies(model, exact, rows).mean()).square())
        logits = model(exact.waveform[rows], exact.lengths[rows]).logits
        sizes.append(gradients_of(model, logits.square().sum(1).mean()).abs())
    assert close(squared_gradients(context(SAMPLES), "train", 5), torch.stack(squares).mean(0))
    assert close(absolute_output_gradients(context(SAMPLES), "train", 5), torch.stack(sizes).mean(0))
    assert not close(squared_gradients(context(SAMPLES), "train", 46), torch.stack(squares).mean(0))


def test_importances_over_utterances_know_no_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = alone(SAMPLES, "train").square().mean(0)
    for size, at_once in itertools.product((1, 5, 46), (1, 2**24)):
        monkeypatch.setattr(importance, "AT_ONCE", at_once)
        assert close(squared_sample_gradients(context(SAMPLES), "train", size), expected), (size, at_once)


# ---- gradients of single utterances


def classifier(name: str) -> nn.Module:
    if name in {path.stem for path in encoders.YAMLS}:
        return encoders.build(name)  # type: ignore[no-any-return]
    small: dict[str, Any] = {
        "tcresnet": {"channels": [8, 8]},
        "kwt": {"depth": 2},
        "bcresnet": {},
        "m5": {"channels": [8, 8]},
        "x_vector": {},
    }
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    torch.manual_seed(0)
    return build_classifier({**config, **small[name]}, CLASSES, encoders.RATE)  # type: ignore[dict-item]


VECTORISED = ("tcresnet", "bcresnet", "m5", "kwt", "x_vector", "ast", "whisper_tiny", "torchaudio_bundle")


@pytest.mark.parametrize("name", [*VECTORISED, "wav2vec2_base", "wavlm_base"])
def test_every_kind_of_model_gives_the_gradients_of_single_utterances(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier(name).eval().double()
    waveform, lengths = encoders.noise(encoders.RATE, 9000, 5000)
    batch = Batch(
        (waveform.double(), lengths), torch.tensor([0, 1, 2]), torch.arange(3), torch.zeros(3, dtype=torch.bool)
    )
    cost = Cost()
    cost.watch(model)
    with cost, caplog.at_level(logging.WARNING):
        each = PerUtterance(replace(context(SAMPLES), original=model, spent=cost.spent), movable(model), cross_entropy)
        ours = torch.cat(list(each(batch, batch.labels, lambda gradients, *_: flat(gradients))))
    assert (cost.forward, cost.forward_backward) == (0, 3)
    assert each.vectorised == (name in VECTORISED) == ("one by one" not in caplog.text)
    for number in range(3):
        value = cross_entropy(
            model(batch.inputs[0][number : number + 1], lengths[number : number + 1]).logits,
            batch.labels[number : number + 1],
        )
        found = torch.autograd.grad(value.sum(), movable(model), allow_unused=True, materialize_grads=True)
        expected = parameters_to_vector(found)
        assert float((ours[number] - expected).abs().max()) < 1e-9 * float(expected.abs().max())


class Learned(nn.Module):
    """A frontend that has a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        return self.gain * waveform


def test_a_frontend_that_is_learned_is_differentiated_too() -> None:
    model = exact_model()
    del type(model).frontend  # restored below: a method would hide the module
    try:
        model.frontend = Learned()
        found = squared_sample_gradients(replace(context(SAMPLES), original=model), "train", 46)
    finally:
        Tiny.frontend = FRONTEND  # type: ignore[method-assign]
    names = [name for name, _ in model.named_parameters()]
    assert float(found[names.index("frontend.gain") - len(names)]) > 0


FRONTEND = Tiny.frontend


# ---- edits


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_leaves_buffers_and_frozen_weights_alone(name: str) -> None:
    method, model = (
        build(name, **({"alpha": 1.2, "dampening": 1.0} if "ssd" in name and name != "assd" else {})),
        copy.deepcopy(original()),
    )
    model.conv.requires_grad_(False)
    student = copy.deepcopy(model)
    method.prepare(student, replace(context_of(SAMPLES, method), original=model))
    for key, value in dict(model.named_buffers()).items():
        assert torch.equal(student.get_buffer(key), value)
    assert torch.equal(student.conv.weight, model.conv.weight) and torch.equal(student.conv.bias, model.conv.bias)
    assert not torch.equal(student.head.weight, model.head.weight)
    assert all(weight.requires_grad for weight in (*student.norm.parameters(), *student.head.parameters()))
    assert not student.conv.weight.requires_grad


@given(
    forget=st.lists(st.floats(0, 10), min_size=6, max_size=6),
    whole=st.lists(st.floats(0, 10), min_size=6, max_size=6),
    alpha=st.floats(0, 5),
    strength=st.floats(0, 2),
    floor=st.floats(0, 1),
)
def test_dampening_only_shrinks_and_only_what_forget_needs_more(
    forget: list[float], whole: list[float], alpha: float, strength: float, floor: float
) -> None:
    model = nn.Linear(5, 1).double()
    nn.init.constant_(model.weight, -2.0)
    nn.init.constant_(model.bias, 3.0)
    before = parameters_to_vector(model.parameters()).detach()
    importance.dampen(
        model, *(torch.tensor(values, dtype=torch.float64) for values in (forget, whole)), alpha, strength, floor
    )
    factors = (parameters_to_vector(model.parameters()).detach() / before).tolist()
    for factor, mine, all_of in zip(factors, forget, whole, strict=True):
        assert factor == pytest.approx(max(min(strength * all_of / mine, 1.0), floor) if mine > alpha * all_of else 1.0)
        assert 0 <= factor <= 1


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_no_weight_is_multiplied_by_less_than_the_floor(name: str) -> None:
    before = parameters_to_vector(original().parameters()).detach()
    ended = [run(SAMPLES, build(name, alpha=1.2, dampening=0.0, floor=floor)) for floor in (0.0, 0.75)]
    free, held = (parameters_to_vector(student.parameters()).detach() for student in ended)
    dampened = free != before
    assert bool(dampened.any()) and not bool(dampened.all()) and bool((free[dampened] == 0).all())
    assert torch.equal(held, torch.where(dampened, 0.75 * before, before))


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_a_huge_alpha_changes_nothing_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        student = run(SAMPLES, build(name, alpha=1e9))
    assert all(torch.equal(value, original().state_dict()[key]) for key, value in student.state_dict().items())
    assert "nothing was dampened" in caplog.text


def test_adaptive_threshold_is_the_percentile_of_the_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, retain = torch.rand(1000, generator=generator), torch.rand(1000, generator=generator)
    for share in (0.01, 0.2, 0.9):
        rank = (100 - math.log(1 + 100 * share)) / 100 * 999
        ratios = (forget.double() / retain.double()).sort().values
        low = int(rank)
        expected = float(ratios[low] + (rank - low) * (ratios[low + 1] - ratios[low]))
        assert threshold(forget, retain, share) == pytest.approx(expected)
    assert threshold(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 0.0, 1.0]), 0.0) == 3.0


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
@pytest.mark.parametrize("problem", [SAMPLES, CLASS], ids=["sample", "class"])
def test_auto_selects_as_many_weights_as_the_share_of_the_request_says(name: str, problem: Problem) -> None:
    before = original()
    share = len(problem.forget) / 46
    ended = run(problem, build(name, alpha="auto", dampening=0.0, floor=0.0))
    count = sum(parameter.numel() for parameter in before.parameters())
    zeroed = sum(int((parameter == 0).sum()) for parameter in ended.parameters())
    assert zeroed == pytest.approx(math.log(1 + 100 * share) / 100 * count, abs=1.001)


def test_alpha_is_a_number_or_auto() -> None:
    for alpha in ("atuo", True, None):
        with pytest.raises(UserError, match=r"method\.alpha is a number, or auto"):
            build("ssd", alpha=alpha)


def test_adaptive_dampening_is_that_of_a_plain_loop() -> None:
    student = run(CLASS, build("assd", dampening=0.5, floor=0.4))
    means = []
    for name in ("forget", "retain"):
        model = copy.deepcopy(original())
        parts = [
            gradients_of(model, cross_entropies(model, CLASS, rows).mean()).square()
            for rows in rows_of(CLASS, name).split(4)
        ]
        means.append(torch.stack(parts).mean(0).double())
    ratio = (means[0] / means[1]).numpy()
    alpha = np.percentile(ratio, 100 - math.log(1 + 100 * len(CLASS.forget) / 46))
    factor = np.where(ratio > alpha, np.clip(0.5 / ratio, 0.4, 1.0), 1.0)
    assert 0 < (factor < 1).sum() < len(factor) / 2
    expected = parameters_to_vector(original().parameters()).detach() * torch.from_numpy(factor).float()
    assert torch.allclose(parameters_to_vector(student.parameters()).detach(), expected, rtol=1e-3)


# ---- Fisher


def test_fisher_information_is_that_of_a_plain_loop() -> None:
    model, exact = exact_model(), SAMPLES.double()
    expected, empirical = [], []
    for row in SAMPLES.retain:
        logits = model(exact.waveform[row][None], exact.lengths[row][None]).logits[0].log_softmax(0)
        parts = [
            torch.autograd.grad(logits[label], list(model.parameters()), retain_graph=True) for label in range(CLASSES)
        ]
        gradients = torch.stack([parameters_to_vector(part) for part in parts])
        expected.append((logits.detach().exp()[:, None] * gradients.square()).sum(0))
        empirical.append((gradients[SAMPLES.labels[row]] + TINY).square())
    for information, parts in (("expected", expected), ("empirical", empirical)):
        method = build("fisher", information=information)
        assert isinstance(method, Fisher)
        assert close(method.fisher(exact_context(SAMPLES, method)), torch.stack(parts).mean(0))


def test_fisher_noise_is_of_the_size_that_is_said_and_drawn_by_the_seed() -> None:
    method = build("fisher", alpha=2e-6, limit=300.0, head_limit=40.0, boost=5.0, forgotten_variance=0.01)
    assert isinstance(method, Fisher)
    information = torch.tensor([[1e-6, 0.1], [1.0, 2.0]])
    inverse = 1 / (information + 1e-8)
    plain = 2e-6 * inverse.clamp(max=300).mean(1)
    assert torch.allclose(method.variance(information, False, [1]), plain[:, None].expand(2, 2))
    assert torch.allclose(method.variance(information[0], False, []), 5 * 2e-6 * inverse[0].clamp(max=300))
    head = method.variance(information, True, [1])
    assert torch.allclose(
        head, torch.stack([torch.full((2,), float(5 * 2e-6 * inverse[0].clamp(max=40).mean())), torch.full((2,), 0.05)])
    )
    like = torch.zeros(2000)
    first, same, other, weight = (
        method.draw(*asked) for asked in (("a", like, 0), ("a", like, 0), ("a", like, 1), ("b", like, 0))
    )
    assert torch.equal(first, same) and not torch.equal(first, other) and not torch.equal(first, weight)
    assert abs(float(first.mean())) < 0.1 and abs(float(first.std()) - 1) < 0.1


@pytest.mark.parametrize("problem", [SAMPLES, CLASS], ids=["sample", "class"])
def test_fisher_forgets_the_head_of_a_class_that_is_removed(problem: Problem) -> None:
    method = build("fisher")
    method.draw = lambda name, like, seed: torch.zeros_like(like)  # type: ignore[assignment]
    student, before = run(problem, method), original()
    gone = list(problem.forgotten)
    kept = [number for number in range(CLASSES) if number not in gone]
    assert bool((student.head.weight[gone] == 0).all()) and bool((student.head.bias[gone] == 0).all())
    assert torch.equal(student.head.weight[kept], before.head.weight[kept]) and torch.equal(
        student.conv.weight, before.conv.weight
    )


# ---- influence


def test_the_inverse_hessian_is_that_of_the_rank_one_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechforget.methods.influence.BLOCK", 3)
    for damping, (count, width) in itertools.product((0.5, 1000.0), ((3, 7), (9, 4))):
        generator = torch.Generator().manual_seed(count)
        rows = torch.randn(count, width, generator=generator).double()
        vector = torch.randn(width, generator=generator).double()
        inverse = torch.eye(width, dtype=torch.float64)
        for row in rows:
            product = inverse @ row
            inverse = inverse - torch.outer(product, product) / (damping + row @ product)
        assert torch.allclose(solve(rows, vector, damping), inverse @ vector, rtol=1e-10), (damping, count)


@pytest.mark.parametrize("share", [None, 0.3])
def test_influence_is_the_step_of_a_plain_computation(share: float | None) -> None:
    method = build("influence", alpha=3.0, damping=7.0, share=share)
    assert isinstance(method, Influence)
    forget, retain = alone(SAMPLES, "forget"), alone(SAMPLES, "retain")
    hessian = torch.eye(retain.shape[1], dtype=torch.float64) + retain.T @ retain / 7
    expected = 3 * torch.linalg.solve(hessian, (share or len(forget) / 46) * (forget.mean(0) - retain.mean(0)))
    assert close(method.step(exact_context(SAMPLES, method)), expected)


def test_influence_draws_its_utterances_by_the_seed_alone() -> None:
    steps = []
    for size, seed in ((4, 5), (46, 5), (4, 6)):
        method = build("influence", samples=6, damping=0.1, batch_size=size)
        assert isinstance(method, Influence)
        steps.append(method.step(replace(exact_context(SAMPLES, method), seed=seed)))
    assert close(steps[1], steps[0]) and not close(steps[2], steps[0])


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(
        UserError,
        match=r"37 gradients of 76 weights are .* GB, more than method.memory=1e-06: .* method.samples to 3 or fewer",
    ):
        run(SAMPLES, build("influence", memory=1e-6))


def test_a_mistake_is_one_sentence() -> None:
    for name, changes, error, hint in [
        ("ssd", {"importance": "samples"}, UserError, "did you mean 'sample'"),
        ("fisher", {"information": "emprical"}, UserError, "did you mean 'empirical'"),
        ("influence", {"samples": 0}, UserError, "method.samples"),
        ("influence", {"damping": 0.0}, UserError, "method.damping"),
        ("influence", {"share": 0.0}, UserError, "method.share"),
        ("ssd", {"trainable": "head"}, NotApplicable, "at once"),
    ]:
        with pytest.raises(error, match=hint):
            build_method({**options_of(name), **changes})
    assert isinstance(build_method({**options_of("ssd"), "retain_share": 0.5}), Method)
