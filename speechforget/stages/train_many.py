"""Train several models of one architecture and recipe: at once where that is faster, else one by one.

The result is that of `train` for each, up to rounding: models differ in their training rows and seeds, and keep data
order, augmentation, dropout and learning curve of their own.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speechforget.data.batches.streams import Sources
from speechforget.errors import UserError
from speechforget.progress import bar
from speechforget.stages.stacking import Choice, Recipe, choose
from speechforget.stages.train import description, steps_of, train
from speechforget.store import check_held
from speechforget.tracking.curves import Curve
from speechforget.training.checkpoint import TOGETHER, WEIGHTS, remove_checkpoint, replace, usable
from speechforget.training.cost_meter import Cost
from speechforget.training.device import start_process
from speechforget.training.finite import check_numbers, check_outputs, check_weights
from speechforget.training.loop import FitSettings, finish
from speechforget.training.stacked import Stack, State

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 10.0
VALIDATED = ("validation", "validation_forgotten")
VALIDATION_BATCH = 256


class Job(NamedTuple):
    """A model to train: where and how, and on which `train` rows."""

    settings: FitSettings
    sources: Sources


# Called with the number of a job that has ended, and the error if it failed.
Ended = Callable[[int, UserError | None], None]


def train_many(
    jobs: Sequence[Job],
    labels: Sequence[str],
    dataset: Mapping[str, Any],
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    ended: Ended,
    memory: Path | None = None,
    later: Callable[[int], None] | None = None,
) -> None:
    """Train the classifier of each job as `train` does, and write each to its folder.

    A job that fails with a UserError, such as Diverged, ends alone. A killed run continues from its checkpoints.
    ended: called for each job as soon as it has ended. memory: a folder that remembers how fast this machine is.
    later: called with the numbers of jobs that are not trained, which is all but one of those that train one by one;
    without it, all are trained.
    """
    shared = Recipe(labels, dataset, model, recipe)
    trainer = jobs[0].settings.trainer
    device = start_process(trainer)
    begun = [usable(job.settings.folder / TOGETHER) for job in jobs]
    parts: list[tuple[Sequence[int], Choice]] = []
    for numbers in _alike(jobs, begun, recipe):
        sources = [jobs[number].sources for number in numbers]
        choice = choose(sources, shared, trainer, device, memory) if len(numbers) > 1 else Choice(1)
        parts += [(part, choice) for part in _parts(numbers, choice.width)]
    alone = [part[0] for part, _ in parts if len(part) == 1 and not begun[part[0]]]
    put_off: list[int] = []
    if later is not None:
        put_off = alone[1:]
        for number in put_off:
            later(number)
    for part, choice in parts:
        if len(part) > 1 or begun[part[0]]:
            Together({number: jobs[number] for number in part}, shared, choice, device, ended).run()
        elif part[0] not in put_off:
            _train_alone(part[0], jobs[part[0]], shared, ended)


def _alike(jobs: Sequence[Job], begun: Sequence[bool], recipe: Mapping[str, Any]) -> list[list[int]]:
    """Return the numbers of jobs with equal steps per epoch and epochs done; a job that began alone stays alone."""
    alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        alone = not begun[number] and (job.settings.folder / WEIGHTS).exists()
        done = _load(job)["epoch"] if begun[number] else 0
        alike[steps_of(job.sources, recipe), done, number + 1 if alone else 0].append(number)
    return list(alike.values())


def _parts(numbers: Sequence[int], width: int) -> list[Sequence[int]]:
    """Cut numbers into as few parts of at most `width` as possible, about equally long."""
    count = -(-len(numbers) // width)
    ends = [len(numbers) * part // count for part in range(count + 1)]
    return [numbers[start:end] for start, end in pairwise(ends)]


def _train_alone(number: int, job: Job, recipe: Recipe, ended: Ended) -> None:
    try:
        train(job.settings, job.sources, *recipe)
    except UserError as error:
        ended(number, error)
    else:
        ended(number, None)


def _load(job: Job) -> dict[str, Any]:
    return dict(torch.load(job.settings.folder / TOGETHER, map_location="cpu", weights_only=True))


class Together:
    """Train jobs, by their numbers, as one stack."""

    def __init__(
        self, jobs: Mapping[int, Job], recipe: Recipe, choice: Choice, device: torch.device, ended: Ended
    ) -> None:
        self.jobs, self.recipe, self.device, self.ended = dict(jobs), recipe, device, ended
        first = next(iter(jobs.values()))
        self.steps, self.epochs, self.epoch = steps_of(first.sources, recipe.train), int(recipe.train["epochs"]), 0
        models = [recipe.build(job.settings.seed) for job in jobs.values()]
        self.stack = Stack(
            models,
            recipe.train["optimizer"],
            recipe.losses(models[0]),
            device,
            first.settings.trainer["precision"],
            products=choice.products,
        )
        self.costs = {number: Cost(len(jobs)) for number in jobs}
        self.curves = {number: Curve(job.settings.folder, job.settings.listener) for number, job in jobs.items()}
        self.saved = time.monotonic()
        self._resume()

    def run(self) -> None:
        """Train all epochs and write what has been trained."""
        more = f" and {len(self.jobs) - 1} more" if len(self.jobs) > 1 else ""
        title = f"{next(iter(self.jobs.values())).settings.description}{more}"
        progress = bar(total=self.steps * self.epochs, description=title, unit="step", disable=False)
        try:
            progress.update(self.epoch * self.steps)
            with ExitStack() as measured:
                for cost in self.costs.values():
                    measured.enter_context(cost)
                while self.epoch < self.epochs and self.jobs:
                    self._train_epoch(progress.update)
                    self._save()
        finally:
            progress.close()
        for place, (number, job) in enumerate(self.jobs.items()):
            self._finish(place, number, job)

    def _train_epoch(self, told: Callable[[int], Any]) -> None:
        salts = {number: (job.settings.seed, "train", self.epoch) for number, job in self.jobs.items()}
        streams = [
            job.sources.shuffled(job.sources.rows["train"], self.recipe.train["batch_size"], salts[number])
            for number, job in self.jobs.items()
        ]
        seeds = self.stack.seeds(list(salts.values()))
        sums = torch.zeros(len(streams), 2, dtype=torch.float64, device=self.device)
        for step, batches in enumerate(zip(*streams, strict=True), start=self.epoch * self.steps):
            means = self.stack.step(batches, seeds, self.recipe.learning_rate(step, self.steps))
            sizes = [len(batch.labels) for batch in batches]
            weight = sizes[0] if len(set(sizes)) == 1 else means.new_tensor(sizes)[:, None]
            sums += means * weight
            for cost, size in zip(self.costs.values(), sizes, strict=True):
                cost.spent(size, self.device)
            told(1)
        self.epoch += 1
        counts = [len(job.sources.rows["train"]) for job in self.jobs.values()]
        self._check([[total / count for total in row] for row, count in zip(sums.tolist(), counts, strict=True)])

    def _check(self, means: Sequence[Sequence[float]]) -> None:
        """Add a point to each learning curve; end the jobs whose numbers are not finite."""
        with ExitStack() as paused:
            for cost in self.costs.values():
                paused.enter_context(cost.paused())
            validated = self._validated()
        finite, failed = self.stack.finite(), {}
        for place, (number, job) in enumerate(self.jobs.items()):
            try:
                check_held(job.settings.folder)
                with job.settings.watch.watched(f"in epoch {self.epoch} of {self.epochs}"):
                    row = dict(zip(("train/loss", "train/accuracy"), means[place], strict=True))
                    check_numbers(row)
                    if not finite[place]:
                        check_weights(self.stack.model(place))
                    for name, (right, seen, wrong) in validated[number].items():
                        check_outputs(wrong, seen)
                        row[f"{name}/accuracy"] = right / seen
            except UserError as error:
                remove_checkpoint(job.settings.folder)
                failed[number] = error
            else:
                self.curves[number].add({"epoch": self.epoch - 1, "step": self.epoch * self.steps, **row})
        if failed:
            self._drop(failed)

    def _drop(self, failed: Mapping[int, UserError]) -> None:
        states = dict(zip(self.jobs, self.stack.states(), strict=True))
        for number, error in failed.items():
            del self.jobs[number], states[number]
            self.ended(number, error)
        if states:
            self.stack.load(list(states.values()))
        for number in failed:
            self.costs[number].__exit__()
            del self.costs[number]

    def _validated(self) -> dict[int, dict[str, tuple[int, int, int]]]:
        """Return, by job and set, the number of right answers, of utterances, and of answers that are not finite.

        Jobs that validate on the same rows share batches.
        """
        found: dict[int, dict[str, tuple[int, int, int]]] = {number: {} for number in self.jobs}
        for name in VALIDATED:
            alike: dict[bytes, list[int]] = defaultdict(list)
            for place, job in enumerate(self.jobs.values()):
                rows = job.sources.rows.get(name)
                if rows is not None and len(rows):
                    alike[rows.tobytes()].append(place)
            for places in alike.values():
                for place, counts in zip(places, self._counts(name, places), strict=True):
                    found[list(self.jobs)[place]][name] = (counts[0], counts[1], counts[2])
        return found

    def _counts(self, name: str, places: Sequence[int]) -> list[list[int]]:
        sources = list(self.jobs.values())[places[0]].sources
        counts = torch.zeros(len(places), 3, dtype=torch.int64, device=self.device)
        for batch in sources.sharded(name, VALIDATION_BATCH):
            logits = self.stack.logits(batch.inputs, places)
            labels = batch.labels.to(self.device)
            right = (logits.argmax(dim=2) == labels).sum(1)
            wrong = (~logits.isfinite().all(dim=2)).sum(1)
            counts += torch.stack([right, torch.full_like(right, len(labels)), wrong], dim=1)
        return counts.tolist()

    def _save(self) -> None:
        """Write a checkpoint for each job, unless the last ones are fresh."""
        if not self.jobs or time.monotonic() - self.saved < SECONDS_BETWEEN_CHECKPOINTS:
            return
        for (number, job), state in zip(self.jobs.items(), self.stack.states(), strict=True):
            kept = {
                "epoch": self.epoch,
                "state": state,
                "cost": self.costs[number].state_dict(),
                "curve": self.curves[number].rows,
            }
            replace(job.settings.folder / TOGETHER, functools.partial(torch.save, kept))
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Continue from the checkpoints, or start all learning curves."""
        if not usable(next(iter(self.jobs.values())).settings.folder / TOGETHER):
            for curve in self.curves.values():
                curve.restore([])
            return
        states: list[State] = []
        for number, job in self.jobs.items():
            logger.info("Resuming from the checkpoint in %s.", job.settings.folder)
            kept = _load(job)
            states.append(kept["state"])
            self.epoch = int(kept["epoch"])
            self.costs[number].load_state_dict(kept["cost"])
            self.curves[number].restore(kept["curve"])
        self.stack.load(states)

    def _finish(self, place: int, number: int, job: Job) -> None:
        recipe = self.recipe
        parts = description(recipe.model, recipe.labels, recipe.dataset)
        try:
            finish(job.settings, self.stack.model(place), parts, self.costs[number])
        except UserError as error:
            self.ended(number, error)
        else:
            self.ended(number, None)
