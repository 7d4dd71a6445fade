"""Stage: runs one method on (original, forget, retain). One pass of the method's plan is one Lightning epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechforget import ranks
from speechforget.batch import Batch, to_device
from speechforget.cost import Cost
from speechforget.data.streams import Paired, Sources, Stream
from speechforget.draws import order, seed_from
from speechforget.dropout import drawn_for
from speechforget.fitting import Averages, Fitted, Job, accuracy, finish, fit, log_accuracies
from speechforget.launch import compiled, start_process
from speechforget.loading import build_classifier, build_method, load_classifier
from speechforget.methods.driver import Driver
from speechforget.methods.method import Context, Method, Pass

VERSION = 4  # of what this stage computes: raise it whenever the same inputs give other weights


class Unlearning(Fitted):
    """Lightning's hooks, each handed to the method's driver."""

    def __init__(self, driver: Driver, sources: Sources, job: Job, cost: Cost) -> None:
        super().__init__()
        self.student, self.method = driver.student, driver.method  # modules of this one, so a checkpoint holds them
        self.driver, self.sources, self.cost = driver, sources, cost
        self.seed, self.curves, self.averages = job.seed, job.curves, Averages()

    def train_dataloader(self) -> Stream | Paired:
        """The stream of the current pass."""
        index = min(self.current_epoch, len(self.driver.plan) - 1)
        return pass_stream(self.sources, self.method, self.driver.plan[index], index, self.seed)

    def on_train_epoch_start(self) -> None:
        """The pass begins."""
        self.driver.start_pass(self.current_epoch, self.trainer.optimizers[0])

    def training_step(self, batch: Any, _: int) -> Tensor:
        """The method's loss, or this rank's part of it."""
        with drawn_for(batch, self.seed, "unlearn", self.current_epoch):
            loss = self.driver.loss(batch, self.current_epoch)
        self.averages.add((f"unlearn/{self.driver.plan[self.current_epoch].stream}_loss",), loss, batch)
        return loss

    def on_after_backward(self) -> None:
        """Gradients become those of the whole batch."""
        ranks.sum_gradients(self.student)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Masks, projections, clipping."""
        self.driver.after_backward()

    def on_train_batch_end(self, *_: Any) -> None:
        """What a method does to the weights."""
        self.driver.after_step()

    def on_train_epoch_end(self) -> None:
        """The pass ends; the method may end the run with it."""
        if self.driver.end_pass(self.current_epoch):
            self.trainer.should_stop = True
        self.averages.log(self)
        if self.curves:
            log_accuracies(self, self.student, self.sources, ("forget", "validation"), self.cost)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser for all passes."""
        return self.driver.make_optimizer()


def needed(method: Method, name: str) -> None:
    """Raises when a method asks for data that it declared it does not need."""
    wanted = {"train": {"forget", "retain"}}.get(name, {name})
    if not wanted <= method.needs:
        raise RuntimeError(f"{type(method).__name__} asked for {name} data, but declares that it needs {sorted(method.needs)} only")


def pass_stream(sources: Sources, method: Method, current: Pass, index: int, seed: int) -> Stream | Paired:
    """The batches of pass `index`: forget, retain, both side by side, or mixed; shuffled by (seed, index)."""
    for name in {"forget": ["forget"], "retain": ["retain"]}.get(current.stream, ["forget", "retain"]):
        needed(method, name)
    salt = (seed, "unlearn", index)
    forget = sources.rows["forget"]
    retain = order(sources.rows["retain"], seed, "retain share")
    retain = retain[: max(1, round(current.retain_share * len(retain)))]
    if current.stream == "both":
        halves = [sources.shuffled(rows, current.batch_size, (*salt, name)) for name, rows in (("forget", forget), ("retain", retain))]
        return Paired(halves[0], halves[1], pair_steps(current, len(halves[0]), len(halves[1])))
    rows = {"forget": forget, "retain": retain, "mix": np.concatenate([forget, retain])}[current.stream]
    return sources.shuffled(rows, current.batch_size, salt)


def pair_steps(current: Pass, forget: int, retain: int) -> int:
    """Steps of a `both` pass, given the batches in one epoch of each half."""
    return {"forget": forget, "retain": retain, "longer": max(forget, retain)}[current.length] if isinstance(current.length, str) else current.length


def unlearn(job: Job, original: Path, sources: Sources, forgotten: tuple[int, ...], method_config: Mapping[str, Any]) -> None:
    """Runs the method on the classifier of the folder `original` and leaves the unlearned model and its cost in the job's folder.

    sources: rows `forget`, `retain`, `train`, `validation` and `validation_request` (validation utterances of the request's classes).
    """
    device = start_process(job.trainer)
    classifier, parts = load_classifier(original)
    method = build_method(method_config)
    cost = Cost()
    student = copy.deepcopy(cost.watch(classifier.to(device)))
    with cost:
        _run(job, method, classifier, student, sources, forgotten, parts, device, cost)
    finish(job, student, parts, cost)


def _run(
    job: Job,
    method: Method,
    original: nn.Module,
    student: nn.Module,
    sources: Sources,
    forgotten: tuple[int, ...],
    parts: Mapping[str, Any],
    device: torch.device,
    cost: Cost,
) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(seed_from(job.seed, "fresh"))
        return cost.watch(build_classifier(parts["model"], len(parts["labels"]), parts["sample_rate"]).to(device))

    context = Context(original, fresh, ordered_batches(method, sources, device), len(parts["labels"]), forgotten, job.seed)
    method.prepare(student, context)
    method.to(device)
    ranks.share_state(student, method)
    driver = Driver(method, student, evaluator(method, student, sources, device))
    if not driver.plan:
        return
    steps = sum(len(pass_stream(sources, method, current, index, job.seed)) for index, current in enumerate(driver.plan))
    compiled(student, job.trainer)
    fit(Unlearning(driver, sources, job, cost), job, len(driver.plan), steps, cost)
    student.eval()


def ordered_batches(method: Method, sources: Sources, device: torch.device) -> Callable[[str, int], Iterable[Batch]]:
    """`Context.batches`: unaugmented batches on the device, of declared data only."""

    def batches(name: str, batch_size: int) -> Iterable[Batch]:
        needed(method, name)
        for batch in sources.ordered(name, batch_size):
            yield to_device(batch, device)

    return batches


def evaluator(method: Method, student: nn.Module, sources: Sources, device: torch.device) -> Callable[[str], float]:
    """`Evaluate`: the student's accuracy on `forget`, or on the `validation` utterances that match the request."""

    def evaluate(name: str) -> float:
        needed(method, name)
        return accuracy(student, sources.divided({"validation": "validation_request"}.get(name, name), 256), device)

    return evaluate
