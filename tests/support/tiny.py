"""Run any method on a tiny problem with batch-norm in a moment.

The context and the streams fail the test when a method asks for data that it did not declare.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from speechforget import seeding
from speechforget.batch import Batch, Pair, nothing
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Method, Pass, Removed
from speechforget.methods.sisa import Sisa
from speechforget.models.classifier import Output
from speechforget.models.erased import erase
from speechforget.models.lora import restrict
from speechforget.stages.unlearn import build_method
from speechforget.training.cost_meter import Cost

CONF = Path(__file__).parents[2] / "conf" / "method"
CLASSES = 4
EPOCHS = 2
VALUES = Removed(("a", "b"), torch.arange(46) // 3 % 2)  # of an attribute that says a little of the label
RETRAINED = {"rewind", "sisa"}  # methods that train again by the recipe of the original, which the stages know


class Tiny(nn.Module):
    """A classifier of short waveforms: one convolution with batch-norm, and a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv1d(1, 6, 5, padding=2), nn.BatchNorm1d(6)
            self.head = nn.Linear(6, CLASSES)

    def frontend(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        return waveform.masked_fill(~self.heard(waveform, lengths), 0.0)

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        return torch.arange(features.shape[1]) < lengths[:, None]

    def layers(self) -> list[nn.Module]:
        return [self.conv, self.norm, self.head]

    def forward(self, waveform: Tensor, lengths: Tensor, features: Tensor | None = None) -> Output:
        return self.classify(self.frontend(waveform, lengths) if features is None else features, lengths)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        embedding = self.norm(self.conv(features[:, None])).relu().mean(dim=2)
        return Output(self.head(embedding), embedding)


class Problem:
    """Tones of four pitches, and a request to forget some of them or a class. All streams end in a batch of one."""

    def __init__(self, forget: Iterable[int], forgotten: tuple[int, ...] = ()) -> None:
        rows = torch.arange(46)
        self.labels = rows % CLASSES
        self.lengths = 32 - rows % 3
        noise = torch.from_numpy(seeding.uniform(rows.numpy(), 32, "noise")).float() - 0.5
        pitch = torch.tensor([0.3, 0.9, 1.7, 2.7])[self.labels]
        self.waveform = torch.sin(pitch[:, None] * torch.arange(32)) + noise
        self.forget, self.forgotten = torch.tensor(list(forget)), forgotten
        self.retain = rows[~torch.isin(rows, self.forget)]

    def double(self) -> Problem:
        """Return the same problem in float64."""
        exact = copy.copy(self)
        exact.waveform = self.waveform.double()
        return exact

    def batches(self, rows: Tensor, size: int) -> Iterator[Batch]:
        for part in rows.split(size):
            lengths = 32 - part % 3
            yield Batch((self.waveform[part], lengths), self.labels[part], part, torch.isin(part, self.forget))

    def kept(self, share: float) -> Tensor:
        return torch.from_numpy(seeding.order(self.retain.numpy(), "share"))[: round(share * len(self.retain))]

    def shuffled(self, rows: Tensor, size: int, index: int, first: int | None = None) -> list[Batch]:
        drawn = torch.from_numpy(seeding.order(rows.numpy(), "shuffle", index))
        parts = [drawn[:first], drawn[first:]] if first and first < len(rows) else [drawn]
        return [batch for part in parts for batch in self.batches(part, size)]

    def stream(self, current: Pass, index: int, share: float = 1.0) -> Iterator[Any]:
        """Yield the steps of a pass."""
        if current.stream == "nothing":
            assert isinstance(current.length, int)
            return iter([nothing() for _ in range(current.length)])
        kept, size = self.kept(share), current.batch_size
        if current.stream in ("forget", "retain", "mix"):
            rows = {"forget": self.forget, "retain": kept, "mix": torch.cat([self.forget, kept])}[current.stream]
            return iter(self.shuffled(rows, size, index, current.first))
        forget, retain = (
            self.shuffled(self.forget, current.forget_batch_size or size, index),
            self.shuffled(kept, size, index),
        )
        lengths = {"forget": len(forget), "retain": len(retain), "longer": max(len(forget), len(retain))}
        steps = lengths[current.length] if isinstance(current.length, str) else current.length
        if current.stream == "both":
            first = itertools.cycle(forget) if current.again else itertools.chain(forget, itertools.repeat(None))
            return itertools.islice(map(Pair, first, itertools.cycle(retain)), steps)
        sides = itertools.cycle(forget), itertools.cycle(retain)
        return (next(side) for step in range(steps) for side in (sides if step % current.every == 0 else sides[1:]))


SAMPLES = Problem(range(9))
CLASS = Problem(range(2, 46, CLASSES), forgotten=(2,))


@cache
def original() -> Tiny:
    """Train the original until it is right on nearly everything."""
    model = Tiny(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(SAMPLES.waveform, SAMPLES.lengths).logits, SAMPLES.labels).backward()
        optimizer.step()
    return model.eval()


@cache
def resolved(name: str, kind: str) -> dict[str, Any]:
    config = OmegaConf.create({"method": OmegaConf.load(CONF / f"{name}.yaml"), "task": {"kind": kind}})
    options: Any = OmegaConf.to_container(config.method, resolve=True)
    return dict(options)


def options_of(name: str, kind: str = "class") -> dict[str, Any]:
    """Return the options of the method's yaml for a kind of request."""
    return copy.deepcopy(resolved(name, kind))


def build(name: str, **changes: object) -> Method:
    """Build the yaml's method for two epochs and batches of four."""
    options = options_of(name)
    small = {"epochs": EPOCHS, "forget_epochs": 1, **{key: 4 for key in options if key.endswith("batch_size")}}
    options.update({key: value for key, value in small.items() if key in options})
    return build_method(options | changes)


class Again:
    """Stand in for the recipe of the original: whole batches of retain, by gradient descent; an ensemble of one."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def rewind(self, student: nn.Module, epochs_back: int, epochs: int | None) -> None:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        for _ in range(epochs or epochs_back):
            for batch in self.problem.batches(self.problem.retain, 99):
                optimizer.zero_grad()
                functional.cross_entropy(student(*batch.inputs).logits, batch.labels).backward()
                optimizer.step()

    def shards(self, student: nn.Module) -> None:
        self.rewind(student, 1, None)


def context_of(
    problem: Problem, method: Method, watch: Callable[[nn.Module], nn.Module] = lambda model: model
) -> Context:
    """Return a context that fails the test when the method asks for data that it did not declare."""

    def batches(name: str, size: int) -> Iterator[Batch]:
        assert {"train": {"forget", "retain"}}.get(name, {name}) <= method.needs, (
            f"asked for {name}, declared {sorted(method.needs)}"
        )
        rows = {
            "forget": problem.forget,
            "retain": problem.kept(method.retain_share),
            "train": torch.arange(46),
            "validation": problem.retain[-7:],
        }
        return problem.batches(rows[name], size)

    teacher = watch(restrict(copy.deepcopy(original()), method.trainable))
    about = {"attribute": VALUES, "inserted": erase, "retraining": Again(problem)}
    spent = {"spent": meter.spent} if isinstance(meter := getattr(watch, "__self__", None), Cost) else {}
    return Context(teacher, lambda: watch(Tiny(99)), batches, CLASSES, problem.forgotten, 5, **about, **spent)


def guarded(problem: Problem, method: Method) -> Callable[[Pass, int], Iterator[Any]]:
    """Return the problem's streams with the same guard."""

    def stream(current: Pass, index: int) -> Iterator[Any]:
        used = {"forget": {"forget"}, "retain": {"retain"}, "nothing": set()}.get(current.stream, {"forget", "retain"})
        assert used <= method.needs, f"passes over {current.stream}, declared {sorted(method.needs)}"
        return problem.stream(current, index, method.retain_share)

    return stream


def student_of(method: Method) -> Tiny:
    """Copy the original and freeze the weights that the method must not move."""
    student = copy.deepcopy(original())
    restrict(student, method.trainable)
    if isinstance(method, Sisa):
        student.members = ()
    return student


def accuracy(problem: Problem, student: nn.Module, method: Method) -> Callable[[str], float]:
    def evaluate(name: str) -> float:
        assert name in method.needs
        assert not student.training
        rows = problem.forget if name == "forget" else problem.retain[-7:]
        with torch.no_grad():
            return float(
                (student(problem.waveform[rows], problem.lengths[rows]).logits.argmax(dim=1) == problem.labels[rows])
                .double()
                .mean()
            )

    return evaluate


def driver_of(problem: Problem, student: nn.Module, method: Method) -> Driver:
    """Return a driver that knows the number of steps, as in a real run."""
    return Driver(
        method,
        student,
        accuracy(problem, student, method),
        lambda current, index: len(list(guarded(problem, method)(current, index))),
    )


def run(problem: Problem, method: Method) -> Tiny:
    student = student_of(method)
    method.prepare(student, context_of(problem, method))
    driver_of(problem, student, method).run(guarded(problem, method))
    return student


def run_pass(driver: Driver, optimizer: torch.optim.Optimizer, problem: Problem, index: int) -> bool:
    """Run one pass as Lightning does, and return whether the method stops."""
    driver.start_pass(index, optimizer)
    for batch in problem.stream(driver.plan[index], index, driver.method.retain_share):
        optimizer.zero_grad()
        driver.loss(batch, index).backward()
        driver.after_backward(index, optimizer)
        optimizer.step()
        driver.after_step()
    return driver.end_pass(index)


def run_interrupted(problem: Problem, make: Callable[[], Method]) -> Driver:
    """Run a method that stops after every pass and resumes from a checkpoint; return the last driver."""
    saved = io.BytesIO()
    for index in range(len(make().passes())):
        method = make()
        student = student_of(method)
        method.prepare(student, context_of(problem, method))
        driver = driver_of(problem, student, method)
        parts = (student, method, optimizer := driver.make_optimizer())
        if index:
            saved.seek(0)
            for part, state in zip(parts, torch.load(saved, weights_only=True), strict=True):
                part.load_state_dict(state)
        stops = run_pass(driver, optimizer, problem, index)
        torch.save([part.state_dict() for part in parts], saved := io.BytesIO())
        if stops:
            break
    return driver


def forget_loss(problem: Problem, model: nn.Module) -> float:
    """Compute the mean cross-entropy on forget in nats, in evaluation mode."""
    with torch.no_grad():
        logits = model.eval()(problem.waveform[problem.forget], problem.lengths[problem.forget]).logits
    return float(functional.cross_entropy(logits, problem.labels[problem.forget]))


def forget_batch(problem: Problem, size: int = 99) -> Batch:
    return next(problem.batches(problem.forget, size))


def prepared(problem: Problem, name: str, **changes: Any) -> tuple[Any, nn.Module]:
    """Return the prepared method, and a student that differs from the original."""
    method = build(name, **changes)
    student = student_of(method)
    method.prepare(student, context_of(problem, method))
    with torch.no_grad():
        student.head.weight.mul_(0.8)
    return method, student
