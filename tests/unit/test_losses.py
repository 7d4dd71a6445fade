"""Compare the losses with loops written from their formulas, and test the drawn labels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.bad_teaching import BadTeaching
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.methods.common.losses import divergence, random_labels
from speechforget.methods.finetune import Finetune
from speechforget.methods.gradient_ascent import GradientAscent
from speechforget.methods.random_label import RandomLabel
from speechforget.methods.salun import saliency, top
from speechforget.methods.scrub import Scrub
from speechforget.models.classifier import Output

SGD = {"name": "sgd"}


def softmax(logits: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def naive_divergence(teacher: Tensor, student: Tensor, temperature: float) -> float:
    total = 0.0
    for row in range(len(teacher)):
        p, q = softmax(teacher[row].tolist(), temperature), softmax(student[row].tolist(), temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(teacher)


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return -sum(
        math.log(softmax(row.tolist(), 1.0)[label]) for row, label in zip(logits, labels.tolist(), strict=True)
    ) / len(logits)


class Table(nn.Module):
    """A classifier that returns its weights as logits: utterance i gets row i."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, rows: Tensor) -> Output:
        return Output(self.logits[rows], self.logits[rows])


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def context(original: nn.Module, bad: nn.Module) -> Context:
    return Context(original, lambda: bad, lambda name, size: pytest.fail(f"asked for {name}"), 4, (), 3)


def batch(forget: list[int]) -> Batch:
    rows = torch.arange(7)
    return Batch((rows,), torch.tensor([0, 1, 2, 3, 0, 1, 2]), rows, torch.isin(rows, torch.tensor(forget)))


def loss_of(
    method: Method, logits: tuple[Tensor, Tensor, Tensor], current: Pass, forget: list[int]
) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient by the logits.

    The original, the bad teacher and the student are tables of the three logits.
    """
    student = Table(logits[2])
    method.prepare(student, context(Table(logits[0]), Table(logits[1])))
    loss = method.loss(student, batch(forget), current)
    loss.backward()
    assert student.logits.grad is not None
    return loss.detach(), student.logits.grad


def formula(name: str, logits: tuple[Tensor, Tensor, Tensor], student: Tensor, forget: list[int]) -> float:
    """Compute the same loss from its formula."""
    labels = batch(forget).labels
    if name == "finetune":
        return naive_cross_entropy(student, labels)
    if name == "gradient_ascent":
        return -naive_cross_entropy(student, labels)
    if name == "scrub_forget":
        return -9 * naive_divergence(logits[0], student, 3.0)
    if name == "scrub_retain":
        return 0.3 * 9 * naive_divergence(logits[0], student, 3.0) + 0.7 * naive_cross_entropy(student, labels)
    if name.startswith("bad_teaching"):
        bad = logits[1] if name == "bad_teaching" else torch.ones_like(logits[1])
        rows = [bad[row] if row in forget else logits[0][row] for row in range(7)]
        return naive_divergence(torch.stack(rows), student, 2.0)
    drawn = random_labels(torch.arange(7), labels, 4, (), 3, 5)
    return naive_cross_entropy(student, torch.where(batch(forget).forget, drawn, labels))


SCRUB = Scrub(
    learning_rate=1,
    epochs=1,
    forget_epochs=1,
    forget_batch_size=7,
    retain_batch_size=7,
    alpha=0.3,
    gamma=0.7,
    temperature=3.0,
    optimizer=SGD,
)
MIXED: dict[str, Any] = {"learning_rate": 1, "epochs": 1, "batch_size": 7, "optimizer": SGD, "batch_norm": "frozen"}
MIXED["temperature"] = 2.0
LOSSES = {
    "finetune": (Finetune(learning_rate=1, epochs=1, batch_size=7, optimizer=SGD, batch_norm="frozen"), "retain", []),
    "gradient_ascent": (
        GradientAscent(learning_rate=1, epochs=1, batch_size=7, optimizer=SGD, batch_norm="frozen"),
        "forget",
        list(range(7)),
    ),
    "scrub_forget": (SCRUB, "forget", list(range(7))),
    "scrub_retain": (SCRUB, "retain", []),
    "bad_teaching": (BadTeaching(**MIXED), "mix", [1, 2, 6]),
    "bad_teaching_uniform": (BadTeaching(forget_teacher="uniform", **MIXED), "mix", [1, 2, 6]),
    "random_label_forget": (
        RandomLabel(learning_rate=1, epochs=1, batch_size=7, optimizer=SGD),
        "forget",
        list(range(7)),
    ),
    "random_label_retain": (RandomLabel(learning_rate=1, epochs=1, batch_size=7, optimizer=SGD), "retain", []),
    "random_label_joint": (
        RandomLabel(learning_rate=1, epochs=1, batch_size=7, optimizer=SGD, order="joint"),
        "mix",
        [0, 5],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula_and_so_is_its_gradient(name: str, logits: tuple[Tensor, Tensor, Tensor]) -> None:
    method, stream, forget = LOSSES[name]
    loss, gradient = loss_of(method, logits, Pass(stream, 7, 1.0, epoch=5), forget)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(formula(name, logits, logits[2], forget), rel=1e-12)
    step = 1e-6
    for row in range(7):
        for column in range(4):
            moved = [logits[2].clone(), logits[2].clone()]
            moved[0][row, column] -= step
            moved[1][row, column] += step
            low, high = (formula(name, logits, student, forget) for student in moved)
            assert float(gradient[row, column]) == pytest.approx((high - low) / (2 * step), abs=1e-7)


def test_a_uniform_teacher_gives_the_mean_gradient_of_teachers_that_favour_each_class_alike() -> None:
    """Drawn logits and all their permutations are as likely as each other, so a random teacher has this mean."""
    student = torch.tensor([[0.3, -1.2, 2.0, 0.1]], dtype=torch.float64, requires_grad=True)
    teachers = torch.tensor(list(itertools.permutations([0.4, 1.9, -0.7, 0.2])), dtype=torch.float64)
    (drawn,) = torch.autograd.grad(divergence(teachers, student.expand(len(teachers), -1)).mean(), student)
    (uniform,) = torch.autograd.grad(divergence(torch.zeros_like(student), student).sum(), student)
    torch.testing.assert_close(uniform, drawn)
    torch.testing.assert_close(uniform, student.detach().softmax(dim=1) - 0.25)


def test_an_unknown_teacher_of_forget_is_one_sentence() -> None:
    with pytest.raises(UserError, match="Unknown teacher 'unifrom' of forget: did you mean 'uniform'"):
        BadTeaching(forget_teacher="unifrom", **MIXED)


@given(st.integers(0, 10_000), st.floats(0.25, 8.0), st.integers(1, 6), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_divergence_is_a_divergence(seed: int, temperature: float, size: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (3 * torch.randn(size, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    value = float(divergence(teacher, student, temperature).mean())
    assert value == pytest.approx(naive_divergence(teacher, student, temperature), rel=1e-9, abs=1e-12)
    assert value >= 0
    assert float(divergence(teacher, teacher + 5, temperature).abs().max()) == pytest.approx(0, abs=1e-12)


def test_divergence_is_finite_where_probabilities_vanish_and_sends_no_gradient_to_the_teacher() -> None:
    teacher = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    student = torch.tensor([[-500.0, 0.0, 500.0]], requires_grad=True)
    value = divergence(teacher, student)
    assert value.item() == pytest.approx(1000.0)
    value.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


@st.composite
def draws_of_labels(drawing: st.DrawFn) -> tuple[Tensor, Tensor, int, tuple[int, ...], int, int]:
    classes = drawing(st.integers(3, 40))
    forgotten = drawing(st.lists(st.integers(0, classes - 1), max_size=classes - 2, unique=True))
    rows = drawing(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=60, unique=True))
    labels = drawing(st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows)))
    return (
        torch.tensor(rows),
        torch.tensor(labels),
        classes,
        tuple(forgotten),
        drawing(st.integers(0, 99)),
        drawing(st.integers(0, 9)),
    )


@given(draws_of_labels(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_random_labels_are_wrong_not_forgotten_and_know_nothing_of_their_batch(
    given_: tuple[Tensor, Tensor, int, tuple[int, ...], int, int], shuffle: int
) -> None:
    rows, labels, classes, forgotten, seed, epoch = given_
    drawn = random_labels(rows, labels, classes, forgotten, seed, epoch)
    assert drawn.dtype == torch.int64
    assert drawn.shape == labels.shape
    assert not bool((drawn == labels).any())
    assert not set(drawn.tolist()) & set(forgotten)
    assert set(drawn.tolist()) <= set(range(classes))
    order = torch.from_numpy(np.random.default_rng(shuffle).permutation(len(rows)))
    assert torch.equal(random_labels(rows[order], labels[order], classes, forgotten, seed, epoch), drawn[order])
    assert int(random_labels(rows[:1], labels[:1], classes, forgotten, seed, epoch)) == int(drawn[0])


@pytest.mark.parametrize(
    ("truth", "forgotten", "allowed"),
    [(2, (), [0, 1, 3, 4]), (0, (), [1, 2, 3, 4]), (4, (4,), [0, 1, 2, 3]), (1, (3, 4), [0, 2])],
)
def test_random_labels_are_uniform_over_what_is_allowed(
    truth: int, forgotten: tuple[int, ...], allowed: list[int]
) -> None:
    rows = torch.arange(8000)
    drawn = random_labels(rows, torch.full_like(rows, truth), 5, forgotten, 0, 0)
    counts = torch.bincount(drawn, minlength=5)
    assert sorted(set(drawn.tolist())) == allowed
    assert stats.chisquare(counts[allowed].numpy()).pvalue > 1e-4


def test_random_labels_change_with_epoch_and_seed_and_fail_where_no_class_is_left() -> None:
    rows = torch.arange(2000)
    labels = rows % 10
    first = random_labels(rows, labels, 10, (), 0, 0)
    for other in (random_labels(rows, labels, 10, (), 0, 1), random_labels(rows, labels, 10, (), 1, 0)):
        assert 0.05 < float((first == other).double().mean()) < 0.18  # independent draws agree in one of nine
    with pytest.raises(UserError, match="at least two classes"):
        random_labels(rows, torch.zeros_like(rows), 3, (1, 2), 0, 0)


def test_saliency_is_the_absolute_value_of_the_sum_of_batch_gradients(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    model = Table(logits[0]).requires_grad_(False)
    first = batch([0, 1, 2, 3, 4, 5, 6])
    # The same utterances with other labels have other gradients.
    second = Batch((first.rows[:3],), (first.labels[:3] + 1) % 4, first.rows[:3], first.forget[:3])
    probabilities = torch.softmax(logits[0], dim=1)
    expected = (probabilities - functional.one_hot(first.labels, 4)) / 7
    expected[:3] += (probabilities[:3] - functional.one_hot(second.labels, 4)) / 3
    with torch.no_grad():
        context = Context(model, lambda: model, lambda name, size: [first, second], 4, (), 0)
        torch.testing.assert_close(saliency(context, 7), expected.abs().reshape(-1))
    assert not model.logits.requires_grad


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=50), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_top_takes_exactly_the_share_and_nothing_below_what_it_leaves(scores: list[float], share: float) -> None:
    values = torch.tensor(scores)
    mask = top(values, share)
    assert int(mask.sum()) == math.floor(share * len(scores))
    if bool(mask.any()) and not bool(mask.all()):
        assert float(values[mask].min()) >= float(values[~mask].max())
