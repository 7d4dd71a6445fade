"""Stage: run one method on original, forget and retain. A pass of the method's plan is one Lightning epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from speechforget.batch import Batch, to_device
from speechforget.config.inputs import decisive
from speechforget.config.instantiate import instantiate_target
from speechforget.data.batches.streams import Nothing, Paired, Sources, Stream, Turns
from speechforget.data.requests.attribute import Attribute
from speechforget.distributed import collectives
from speechforget.distributed.dropout import drawn_for
from speechforget.errors import NotApplicable
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Method, Pass, Removed
from speechforget.methods.base.switches import SWITCHES, equip
from speechforget.models.erased import erase
from speechforget.models.folder import build_classifier, load_classifier
from speechforget.models.lora import adapt, low_rank, settled
from speechforget.seeding import order, seed_from
from speechforget.stages.curve_rows import curve_rows
from speechforget.stages.importance_cache import ImportanceCache
from speechforget.stages.retrain import Retraining
from speechforget.stages.transcript_columns import check_frames
from speechforget.store import write_json
from speechforget.store.names import CERTIFICATE, LOW_RANK
from speechforget.training.cost_meter import Cost
from speechforget.training.device import compiled, start_process
from speechforget.training.finite import check_weights
from speechforget.training.loop import FitSettings, Fitted, finish, fit, measure

Steps = Stream | Paired | Turns | Nothing
VERSION = 5  # raise it whenever the same inputs give other weights


class Unlearning(Fitted):
    """Pass Lightning's hooks on to the driver of the method."""

    def __init__(self, driver: Driver, sources: Sources, settings: FitSettings, cost: Cost) -> None:
        super().__init__(sources, settings, cost, len(driver.plan), "pass")
        self.student, self.method = driver.student, driver.method  # as submodules, so that checkpoints hold them
        self.driver, self.stopped = driver, False
        self.curve_rows = curve_rows(sources.rows, settings.seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save whether `after_pass` stopped the run, beside the weights that it left."""
        checkpoint["stopped"] = self.stopped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` saved."""
        self.stopped = checkpoint["stopped"]

    def on_train_start(self) -> None:
        """Stop at once if the method stopped the run before an interruption."""
        self.trainer.should_stop = self.stopped

    def train_dataloader(self) -> Steps:
        """Return the stream of the current pass."""
        index = min(self.current_epoch, len(self.driver.plan) - 1)
        return pass_stream(self.sources, self.method, self.driver.plan[index], index, self.seed)

    def on_train_epoch_start(self) -> None:
        """Start the pass."""
        self.driver.start_pass(self.current_epoch, self.trainer.optimizers[0])

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss of the method, or this rank's part of it."""
        with drawn_for(batch, self.seed, "unlearn", self.current_epoch):
            loss = self.driver.loss(batch, self.current_epoch)
        self.averages.add((f"unlearn/{self.driver.plan[self.current_epoch].stream}_loss",), loss, batch)
        return loss

    def on_after_backward(self) -> None:
        """Sum the gradients of all ranks to those of the whole batch."""
        collectives.sum_gradients(self.student, self.method)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the method change gradients (masks, projections, clipping)."""
        self.driver.after_backward(self.current_epoch, optimizer)

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the method change weights."""
        self.driver.after_step()

    def on_train_epoch_end(self) -> None:
        """End the pass; the method may stop the run."""
        with self.watched():
            means = self.means(self.student)
            self.trainer.should_stop = self.stopped = self.driver.end_pass(self.current_epoch)
            with self.cost.paused():
                shown = self.measured()
            self.add_point({**means, **shown}, self.student, ())

    def measured(self) -> dict[str, float]:
        """Return accuracy and loss of the student on the sets of its learning curve. Every rank calls this."""
        sources, rows = self.sources.with_rows(**self.curve_rows), self.curve_rows
        found = {name: measure(self.student, sources.sharded(name, 256), self.device) for name in rows}
        return {f"{name}/{what}": value for name, one in found.items() for what, value in one._asdict().items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of all passes."""
        return self.driver.make_optimizer()


def check_declared(method: Method, name: str) -> None:
    """Raise RuntimeError if a method asks for data that it does not declare in `needs`."""
    wanted = {"train": {"forget", "retain"}}.get(name, {name})
    if not wanted <= method.needs:
        raise RuntimeError(
            f"{type(method).__name__} asked for {name} data, but declares that it needs only {sorted(method.needs)}"
        )


def retain_rows(sources: Sources, method: Method, seed: int) -> np.ndarray:
    """Return the rows of retain that the method may see, in the order of the table."""
    retain = sources.rows["retain"]
    if method.retain_share == 1:
        return retain
    return np.sort(order(retain, seed, "retain share")[: max(1, round(method.retain_share * len(retain)))])


def pass_stream(sources: Sources, method: Method, current: Pass, index: int, seed: int) -> Steps:
    """Return the stream of pass `index` (see `Pass.stream`), shuffled by seed and index."""
    if current.stream == "nothing":
        assert isinstance(current.length, int)
        return Nothing(current.length)
    for name in {"forget": ["forget"], "retain": ["retain"]}.get(current.stream, ["forget", "retain"]):
        check_declared(method, name)
    salt = (seed, "unlearn", index)
    forget, retain = sources.rows["forget"], retain_rows(sources, method, seed)
    if current.stream in ("both", "turns"):
        first = sources.shuffled(forget, current.forget_batch_size or current.batch_size, (*salt, "forget"))
        second = sources.shuffled(retain, current.batch_size, (*salt, "retain"))
        steps = pair_steps(current, len(first), len(second))
        return (
            Paired(first, second, steps, current.again)
            if current.stream == "both"
            else Turns(first, second, steps, current.every)
        )
    rows = {"forget": forget, "retain": retain, "mix": np.concatenate([forget, retain])}[current.stream]
    return replace(sources.shuffled(rows, current.batch_size, salt), first=current.first)


def pair_steps(current: Pass, forget: int, retain: int) -> int:
    """Return the steps of a `both` pass, given how many batches an epoch of forget and of retain has."""
    return (
        {"forget": forget, "retain": retain, "longer": max(forget, retain)}[current.length]
        if isinstance(current.length, str)
        else current.length
    )


def unlearn(
    settings: FitSettings,
    original: Path,
    sources: Sources,
    forgotten: tuple[int, ...],
    method_config: Mapping[str, Any],
    cache: ImportanceCache | None = None,
    recipe: Mapping[str, Any] | None = None,
    attribute: Attribute | None = None,
) -> None:
    """Run the method on the classifier of the folder `original`; write the unlearned model and its cost to the folder.

    sources: rows `forget`, `retain`, `train`, `validation` and `validation_request` (validation utterances of the
        classes of the request).
    forgotten: numbers of the classes that are forgotten. cache: shares importances with other requests, if given.
    recipe: of the original's training, if it is known. attribute: what a request for an attribute removes.
    """
    device = start_process(settings.trainer)
    classifier, parts = load_classifier(original)
    check_frames(classifier, sources)
    method = build_method(method_config)
    adapt(classifier, method.trainable, settings.seed)
    cost = Cost()
    student = copy.deepcopy(cost.watch(classifier.to(device)))
    with cost:
        retraining = None if recipe is None else _retraining(settings, sources, method, recipe, original, cost)
        shown = settings, method, classifier, student, sources, forgotten, parts, device, cost, cache, retraining
        _run(*shown, removed_of(attribute))
    if collectives.rank() == 0 and (stated := getattr(method, "certificate", None)) is not None:
        write_json(settings.folder / CERTIFICATE, stated)
    if collectives.rank() == 0 and method.trainable == "lora":
        save_file(low_rank(student), settings.folder / LOW_RANK)
    finish(settings, settled(student, method.trainable), parts, cost)


def _retraining(
    settings: FitSettings, sources: Sources, method: Method, recipe: Mapping[str, Any], start: Path, cost: Cost
) -> Retraining:
    retain = sources.with_rows(train=retain_rows(sources, method, settings.seed))
    return Retraining(settings, retain, recipe, start, cost)


def _run(
    settings: FitSettings,
    method: Method,
    original: nn.Module,
    student: nn.Module,
    sources: Sources,
    forgotten: tuple[int, ...],
    parts: Mapping[str, Any],
    device: torch.device,
    cost: Cost,
    cache: ImportanceCache | None,
    retraining: Retraining | None,
    removed: Removed | None,
) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(seed_from(settings.seed, "fresh"))
        return cost.watch(build_classifier(parts["model"], len(parts["labels"]), parts["sample_rate"]).to(device))

    batches = ordered_batches(method, sources, device, settings.seed)
    # An original with low-rank updates has other weights, so importances of it are not those of the plain original.
    keep = partial(cache.keep, cost, device) if cache and method.trainable != "lora" else None
    context = Context(
        original,
        fresh,
        batches,
        len(parts["labels"]),
        forgotten,
        settings.seed,
        keep,
        cost.spent,
        lambda name: len(sources.rows[name]),
        retraining,
        removed,
        erase,
    )
    with settings.watch.watched("before its first pass" if method.passes() else "in its one step"):
        method.prepare(student, context)
        check_weights(student)
    method.to(device)
    collectives.share_state(student, method)

    def steps_of(current: Pass, index: int) -> int:
        return len(pass_stream(sources, method, current, index, settings.seed))

    driver = Driver(method, student, evaluator(method, student, sources, device), steps_of)
    if not driver.plan:
        return
    compiled(student, settings.trainer)
    fit(Unlearning(driver, sources, settings, cost), settings, driver.steps or 0)
    student.eval()


def removed_of(attribute: Attribute | None) -> Removed | None:
    """Return an attribute as methods see it; None without one."""
    return None if attribute is None else Removed(attribute.names, torch.from_numpy(attribute.numbers))


def ordered_batches(
    method: Method, sources: Sources, device: torch.device, seed: int
) -> Callable[[str, int], Iterable[Batch]]:
    """Return `Context.batches`: batches on the device, not augmented, of declared data only."""

    def batches(name: str, batch_size: int) -> Iterable[Batch]:
        check_declared(method, name)
        if name == "train" and method.retain_share < 1:
            raise NotApplicable(f"{type(method).__name__} reads the whole training set: set method.retain_share=1.")
        stream = sources.ordered(name, batch_size)
        if name == "retain":
            stream = replace(stream, rows=retain_rows(sources, method, seed))
        for batch in stream:
            yield to_device(batch, device)

    return batches


def evaluator(method: Method, student: nn.Module, sources: Sources, device: torch.device) -> Callable[[str], float]:
    """Return `Evaluate`: the student's accuracy on `forget`, or on `validation` utterances that match the request."""

    def evaluate(name: str) -> float:
        check_declared(method, name)
        rows = {"validation": "validation_request"}.get(name, name)
        return measure(student, sources.sharded(rows, 256), device).accuracy

    return evaluate


def build_method(method: Mapping[str, Any]) -> Any:
    """Build the method of a yaml with its switches, without what only readers and checks need (`UNCOUNTED`)."""
    switches = {name: value for name, value in method.items() if name in SWITCHES}
    own = {name: value for name, value in decisive("method", method).items() if name not in SWITCHES}
    return equip(instantiate_target(own, "method"), switches)
