"""Compare DELETE, boundary shrink, boundary expand and JiT with loops written from their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.tiny import (
    CLASS,
    CLASSES,
    CONF,
    SAMPLES,
    Problem,
    build,
    context_of,
    driver_of,
    forget_batch,
    guarded,
    original,
    prepared,
    run,
    student_of,
)
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch, cut
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.methods.boundary_expand import one_output
from speechforget.methods.boundary_shrink import beyond
from speechforget.methods.common.input_features import features_of, heard, normal
from speechforget.methods.common.losses import barred, step_size
from speechforget.methods.common.per_utterance import find, fitted
from speechforget.methods.jit import ends
from speechforget.models.folder import build_classifier
from speechforget.models.layers.cosine_head import CosineHead

EPOCH = Pass("forget", 4, 0.1)


def shares(batch: Batch, *sizes: int) -> Iterator[Batch]:
    """Split a batch into the parts that ranks hold."""
    start = 0
    for size in sizes:
        weights = torch.full((size,), 1 / len(batch.labels), dtype=torch.float64)
        yield cut(batch, start, start + size)._replace(weights=weights)
        start += size


# ---- what they share


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.sets(st.integers(0, 5), max_size=4))
def test_no_answer_is_the_own_class_or_a_forgotten_one(labels: list[int], forgotten: set[int]) -> None:
    mask = barred(torch.tensor(labels), 6, forgotten)
    for row, label in zip(mask.tolist(), labels, strict=True):
        assert row == [number == label or number in forgotten for number in range(6)]


def test_without_a_class_that_is_left_there_is_no_answer() -> None:
    with pytest.raises(UserError, match="at least two classes"):
        barred(torch.tensor([0]), 2, [1])


def test_step_size_counts_the_whole_batch() -> None:
    batch = forget_batch(SAMPLES)
    assert step_size(batch) == len(batch.labels)
    assert [step_size(part) for part in shares(batch, 2, len(batch.labels) - 2)] == pytest.approx(
        [len(batch.labels)] * 2
    )


@settings(max_examples=20)
@given(st.permutations(range(6)), st.integers(0, 20), st.booleans())
def test_noise_belongs_to_utterances(order: list[int], padding: int, bands_last: bool) -> None:
    rows = torch.arange(10, 16)
    shape, mask = ((6, 30, 3), torch.ones(6, 30, 1)) if bands_last else ((6, 3, 30), torch.ones(6, 1, 30))
    time = 1 if bands_last else 2
    whole = normal(rows, torch.zeros(shape), mask, 7)
    room = [(0, 0), (0, padding)] if bands_last else [(0, padding), (0, 0)]
    pad = [amount for side in room for amount in side]
    other = normal(
        rows[order],
        functional.pad(torch.zeros(shape), pad),
        functional.pad(mask, [0, 0, 0, padding] if bands_last else [0, padding]),
        7,
    )
    assert torch.equal(other.narrow(time, 0, 30), whole[order])
    assert not other.narrow(time, 30, padding).any()


def test_noise_is_standard_normal() -> None:
    drawn = normal(torch.arange(50), torch.zeros(50, 400), torch.ones(50, 400), 3)
    again = normal(torch.arange(50), torch.zeros(50, 400), torch.ones(50, 400), 4)
    assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.03
    assert abs(float((drawn * again).mean())) < 0.03
    assert float((drawn.abs() > 1.96).double().mean()) == pytest.approx(0.05, abs=0.01)


def test_what_is_found_is_looked_up_by_number_in_any_order() -> None:
    method = build("delete")

    def of(batch: Batch) -> list[Tensor]:
        # The last batch gives another size.
        return [batch.rows * 10, batch.inputs[0][:, : 20 + len(batch.rows)]]

    numbers, waves = find(context_of(SAMPLES, method), "forget", 4, of, [torch.tensor(0), torch.zeros(24)])
    asked = SAMPLES.forget.flip(0)
    assert torch.equal(numbers(asked), asked * 10)
    assert torch.equal(waves(asked)[:, :21], SAMPLES.waveform[asked][:, :21])
    assert not waves(asked)[0, 21:].any() and torch.equal(waves(asked)[1:], SAMPLES.waveform[asked][1:, :24])


def test_of_several_ranks_each_finds_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    method, parts, heard_rows = build("delete"), [], []

    def of(batch: Batch) -> list[Tensor]:
        heard_rows.extend(batch.rows.tolist())
        return [batch.rows + 1]

    monkeypatch.setattr(collectives, "total", lambda tensor: tensor)
    for rank in range(2):
        monkeypatch.setattr(collectives, "world", lambda: 2)
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        (found,) = find(context_of(SAMPLES, method), "forget", 4, of, [torch.tensor(0)])
        parts.append(found.values)
    assert sorted(heard_rows) == SAMPLES.forget.tolist()
    assert torch.equal(parts[0] + parts[1], SAMPLES.forget + 1)


@pytest.mark.parametrize("shape", [(2, 3), (5, 9), (3, 1)])
def test_fitted_cuts_off_or_fills_up_at_the_ends(shape: tuple[int, int]) -> None:
    values = torch.arange(1.0, 25).view(2, 3, 4)
    expected = torch.zeros(2, *shape)
    for i in range(min(3, shape[0])):
        for j in range(min(4, shape[1])):
            expected[:, i, j] = values[:, i, j]
    assert torch.equal(fitted(values, shape), expected)


# ---- DELETE


@pytest.mark.parametrize("forgotten", [(2,), (1, 2)])
def test_delete_is_the_divergence_from_the_original_without_the_masked_classes(forgotten: tuple[int, ...]) -> None:
    problem = Problem([row for row in range(46) if row % CLASSES in forgotten], forgotten)
    method, student = prepared(problem, "delete")
    batch = forget_batch(problem)
    loss = method.loss(student.eval(), batch, EPOCH)
    expected = 0.0
    teacher, answers = original()(*batch.inputs).logits.tolist(), student(*batch.inputs).logits.tolist()
    for z, a in zip(teacher, answers, strict=True):
        left = [k for k in range(CLASSES) if k not in forgotten]
        total, whole = sum(math.exp(z[k]) for k in left), sum(math.exp(value) for value in a)
        expected += sum(
            math.exp(z[k]) / total * (math.log(math.exp(z[k]) / total) - (a[k] - math.log(whole))) for k in left
        )
    assert float(loss.detach()) == pytest.approx(expected / len(batch.labels), rel=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_delete_stays_finite_in_any_precision(kind: torch.dtype) -> None:
    method, student = prepared(CLASS, "delete")
    batch = forget_batch(CLASS)
    method.teacher.head.weight.data.mul_(100)
    inputs = (batch.inputs[0].to(kind), batch.inputs[1])
    loss = method.to(kind).loss(student.to(kind).eval(), batch._replace(inputs=inputs), EPOCH)
    assert bool(loss.isfinite())


# ---- boundary shrink


def test_the_sign_step_is_the_one_of_the_cross_entropy_and_leaves_padding() -> None:
    model, batch = copy.deepcopy(original()).double(), forget_batch(SAMPLES)
    batch = batch._replace(inputs=(batch.inputs[0].double(), batch.inputs[1]))
    step = torch.tensor(0.3, dtype=torch.float64)
    moved = beyond(model, batch, step)
    assert all(parameter.grad is None for parameter in model.parameters())
    features = features_of(model, batch).requires_grad_(True)
    functional.cross_entropy(model.classify(features, batch.inputs[1]).logits, batch.labels).backward()
    inside = heard(model, batch, moved).bool()
    torch.testing.assert_close(moved[inside], (features + 0.3 * features.grad.sign())[inside])
    assert torch.equal(moved[~inside], features[~inside]) and bool((~inside).any())


def test_the_sign_step_survives_an_original_that_is_sure() -> None:
    sure, batch = copy.deepcopy(original()), forget_batch(SAMPLES)
    with torch.no_grad():
        sure.head.weight.mul_(100)
        sure.head.bias.mul_(100)
    exact = copy.deepcopy(sure).double()
    right = original()(*batch.inputs).logits.argmax(dim=1) == batch.labels
    wide = batch._replace(inputs=(batch.inputs[0].double(), batch.inputs[1]))
    signs = [
        (beyond(model, some, torch.tensor(1.0).to(some.inputs[0])) - some.inputs[0]).sign()
        for model, some in ((sure, batch), (exact, wide))
    ]
    assert bool(right.any())
    inside = heard(sure, batch, batch.inputs[0]).bool() & right[:, None]
    assert float((signs[0].double() == signs[1])[inside].double().mean()) > 0.99


def test_shrink_labels_are_wrong_and_stay_if_asked() -> None:
    for bound in (1e-4, 5.0):
        method, _ = prepared(CLASS, "boundary_shrink", bound=bound)
        assert not bool((method.labels(CLASS.forget) == 2).any())
    plain, _ = prepared(CLASS, "boundary_shrink", bound=1e-4, wrong_only=False)
    batch = forget_batch(CLASS)
    logits = original()(*batch.inputs).logits
    # The step is too short to change an answer.
    assert torch.equal(plain.labels(CLASS.forget), logits.argmax(dim=1))
    method, _ = prepared(CLASS, "boundary_shrink", bound=1e-4)
    logits[:, 2] = -torch.inf
    assert torch.equal(method.labels(CLASS.forget), logits.argmax(dim=1))
    loss = method.loss(original(), batch, EPOCH)
    torch.testing.assert_close(loss, functional.cross_entropy(original()(*batch.inputs).logits, logits.argmax(dim=1)))


# ---- boundary expand


def test_expand_is_training_with_one_more_row_that_is_then_dropped() -> None:
    method = build(
        "boundary_expand",
        optimizer={"name": "sgd", "momentum": 0.9},
        learning_rate=0.05,
        learning_rate_steps=None,
        clip=0.7,
    )
    student = student_of(method)
    method.prepare(student, context_of(CLASS, method))
    wide = copy.deepcopy(original())
    wide.head = nn.Linear(6, CLASSES + 1)
    with torch.no_grad():
        wide.head.weight.copy_(torch.cat([original().head.weight, method.extra.weight]))
        wide.head.bias.copy_(torch.cat([original().head.bias, method.extra.bias]))
    start = method.extra.weight.detach().clone()
    driver_of(CLASS, student, method).run(guarded(CLASS, method))
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05, momentum=0.9)
    wide.train()
    wide.norm.eval()
    for index in range(2):
        for batch in CLASS.stream(EPOCH, index):
            optimizer.zero_grad()
            functional.cross_entropy(wide(*batch.inputs).logits, torch.full_like(batch.labels, CLASSES)).backward()
            nn.utils.clip_grad_norm_(wide.parameters(), 0.7)
            optimizer.step()
    torch.testing.assert_close(student.head.weight, wide.head.weight[:CLASSES])
    torch.testing.assert_close(student.conv.weight, wide.conv.weight)
    torch.testing.assert_close(method.extra.weight, wide.head.weight[CLASSES:])
    assert not torch.equal(method.extra.weight, start)
    assert student.head.weight.shape == original().head.weight.shape


@pytest.mark.parametrize("head", [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), CosineHead(6, 4, 10.0)])
def test_the_extra_output_is_of_the_heads_own_kind(head: nn.Linear) -> None:
    head.requires_grad_(False)
    extra = one_output(head, 0)
    assert extra(torch.randn(3, 6)).shape == (3, 1)
    assert type(extra) is type(head) and all(parameter.requires_grad for parameter in extra.parameters())
    assert torch.equal(extra.weight, one_output(head, 0).weight) and not torch.equal(
        extra.weight, one_output(head, 1).weight
    )
    assert float(extra.weight.detach().abs().max()) <= 1 / math.sqrt(6)


# ---- JiT


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("clamp", [False, True])
def test_jit_is_the_ratio_of_changes(reduction: str, clamp: bool) -> None:
    method, student = prepared(SAMPLES, "jit", draws=3, sigma=0.7, reduction=reduction, clamp=clamp)
    batch, student = forget_batch(SAMPLES), student.eval()
    loss = method.loss(student, batch, EPOCH)
    features = features_of(student, batch)
    mask, scale = heard(student, batch, features), float(method.deviation)
    low, high = float(features[mask.bool()].min()), float(features[mask.bool()].max())
    total = 0.0
    for j in range(3):
        noise = 0.7 * method.noise(batch, features, mask, 0, j)
        for i in range(len(features)):
            changed = features[i] + scale * noise[i]
            changed = torch.where(mask[i].bool(), changed.clamp(low, high), features[i]) if clamp else changed
            lengths = batch.inputs[1][i : i + 1]
            difference = (
                student.classify(features[i : i + 1], lengths).logits - student.classify(changed[None], lengths).logits
            )
            total += float(difference.detach().norm() / ((changed - features[i]) / scale).norm()) / 3
    assert float(loss.detach()) == pytest.approx(total if reduction == "sum" else total / len(features), rel=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_jit_of_parts_sums_to_the_whole(reduction: str) -> None:
    method, student = prepared(SAMPLES, "jit", draws=2, reduction=reduction)
    batch = forget_batch(SAMPLES)
    whole = method.loss(student.eval(), batch, EPOCH)
    parts = [method.loss(student, part, EPOCH) for part in shares(batch, 2, 3, len(batch.labels) - 5)]
    torch.testing.assert_close(torch.stack(parts).sum().to(whole), whole)


def test_jit_gradient_goes_through_the_clean_answers_only() -> None:
    method, student = prepared(SAMPLES, "jit", draws=1)
    batch, student = forget_batch(SAMPLES), student.eval()
    (gradient,) = torch.autograd.grad(method.loss(student, batch, EPOCH), student.head.bias)
    # A bias cancels in the difference of both branches, so the gradient through both would be zero.
    assert float(gradient.norm()) > 1e-6


def test_jit_is_finite_for_an_utterance_without_sound() -> None:
    method, student = prepared(SAMPLES, "jit", draws=2)
    batch = forget_batch(SAMPLES)
    silent = batch._replace(inputs=(batch.inputs[0], torch.zeros_like(batch.inputs[1])))
    loss = method.loss(student.eval(), silent, EPOCH)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(
        bool(parameter.grad.isfinite().all()) for parameter in student.parameters() if parameter.grad is not None
    )


def test_bounds_are_those_of_what_is_heard() -> None:
    low, high = ends(torch.tensor([[1.0, 2.0, 99.0], [-1.0, 0.0, -99.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert (float(low), float(high)) == (-1.0, 2.0)


# ---- classifiers with other features


@pytest.mark.parametrize("model", ["kwt", "m5", "tcresnet"])
def test_any_classifier_will_do(model: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONF.parent / "model" / f"{model}.yaml"))
    small = {"channels": [4, 4], "width": 64, "blocks": 1, "depth": 1}
    assert isinstance(config, dict)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {key: small.get(str(key), value) for key, value in config.items()}
        classifier = build_classifier(options, 3, 8000).eval()
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(8)
    waveform = 0.1 * torch.randn(8, 4000, generator=generator)
    lengths, labels = 4000 - 100 * rows, rows % 3

    def batches(which: str, size: int) -> Iterator[Batch]:
        chosen = {"forget": labels == 0, "retain": labels != 0}[which]
        for part in rows[chosen].split(size):
            yield Batch((waveform[part], lengths[part]), labels[part], part, labels[part] == 0)

    changes = {"jit": {"draws": 2}, "amun": {"steps": 2}, "unsir": {"noise_steps": 2}}
    for name in ("boundary_shrink", "boundary_expand", "jit", "amun", "unsir"):
        method, student = build(name, **changes.get(name, {})), copy.deepcopy(classifier)
        method.prepare(student, Context(classifier, lambda: classifier, batches, 3, (0,), 0))
        which = "retain" if name == "unsir" else "forget"
        Driver(method, student, lambda _: 0.0, lambda *_: 1).run(lambda *_, which=which: batches(which, 4))
        before, after = classifier.state_dict(), student.state_dict()
        assert any(not torch.equal(value, before[key]) for key, value in after.items()), name
        assert all(bool(value.isfinite().all()) for value in after.values()), name
        assert {key: value.shape for key, value in after.items()} == {
            key: value.shape for key, value in before.items()
        }, name


# ---- mistakes


def test_a_mistake_in_a_number_is_one_sentence() -> None:
    for name, changes, hint in [
        ("boundary_shrink", {"bound": 0.0}, "bound"),
        ("jit", {"reduction": "average"}, "mean"),
        ("jit", {"draws": 0}, "at least one draw"),
        ("amun", {"radii": [0.2, 0.1]}, "ascending"),
        ("amun", {"radii": []}, "ascending"),
        ("unsir", {"order": "mixed"}, "joint"),
        ("unsir", {"copies": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=hint):
            build(name, **changes)


@pytest.mark.parametrize("name", ["delete", "boundary_shrink", "boundary_expand", "jit", "unsir"])
def test_no_running_statistics_move_where_retain_is_not_heard(name: str) -> None:
    method: Method = build(name, **({"order": "sequential", "repair_epochs": 0} if name == "unsir" else {}))
    student = run(CLASS, method)
    assert all(torch.equal(value, dict(original().named_buffers())[key]) for key, value in student.named_buffers())
    assert not torch.equal(student.conv.weight, original().conv.weight)
