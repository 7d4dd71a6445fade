"""Choose how many models train at once on this machine: by the config, or by a few steps of each way."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from speechforget.batch import Batch, to_device
from speechforget.config.inputs import code_of, decisive, targets_in
from speechforget.data.batches.streams import Sources
from speechforget.optimizers import make_optimizer
from speechforget.stages.train import learning_rate_factor, losses_and_hits, new_classifier
from speechforget.store import key_of, write_json
from speechforget.training.machine import processor
from speechforget.training.stackable import trial, why_not
from speechforget.training.stacked import Losses, Stack, computed_in

logger = logging.getLogger(__name__)

# Models at once, if the machine may choose. Few models, such as an original and its oracles, train one by one: they are
# then equal to the bit on every such machine, however fast each way is.
FEWEST, WIDEST = 4, 8
ROUNDS, WARM = 3, 4  # rounds of steps in turns, and steps before them; a GPU captures its graph in the third
STEPS = {"cpu": 1, "cuda": 10}  # in a round
FILE = "stacked.json"


class Choice(NamedTuple):
    """Train `width` models at once. products: see `Stack`."""

    width: int
    products: bool = False


class Recipe(NamedTuple):
    """What all models share: see `stages.train.train`."""

    labels: Sequence[str]
    dataset: Mapping[str, Any]
    model: Mapping[str, Any]
    train: Mapping[str, Any]

    def build(self, seed: int) -> nn.Module:
        """Build the classifier that a seed draws."""
        return new_classifier(self.model, len(self.labels), self.dataset["sample_rate"], seed)

    def losses(self, classifier: nn.Module) -> Losses:
        """Return the losses of such classifiers, as a `Stack` takes them."""
        return functools.partial(losses_and_hits, classifier, self.train)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step."""
        warmup, total = (self.train[name] * steps_per_epoch for name in ("warmup", "epochs"))
        return float(self.train["learning_rate"] * learning_rate_factor(step, warmup, total, self.train["schedule"]))


def choose(
    sources: Sequence[Sources],
    recipe: Recipe,
    trainer: Mapping[str, Any],
    device: torch.device,
    memory: Path | None,
) -> Choice:
    """Return how many models train at once, at most `trainer.stacked`; one, with a line in the log, if they cannot.

    memory: a folder that remembers measurements.
    """
    asked = trainer["stacked"]
    if asked == 1 or (asked == "auto" and len(sources) < FEWEST):
        return Choice(1)
    width = min(len(sources), WIDEST if asked == "auto" else int(asked))
    found = _remembered(sources[:width], recipe, trainer, device, memory)
    if reason := found["reason"]:
        logger.info("%d models train one by one: %s.", len(sources), reason)
        return Choice(1)
    seconds = found["seconds"]
    fastest = min((name for name in seconds if asked == "auto" or name != "alone"), key=seconds.__getitem__)
    if fastest == "alone":
        logger.info("%d models train one by one, which is faster here.", len(sources))
        return Choice(1)
    return Choice(width, products=fastest == "products")


def reason_against(sources: Sources, recipe: Recipe, trainer: Mapping[str, Any]) -> str | None:
    """Return why such models must train one by one; None if they need not."""
    if recipe.model.get("pretrained") is not None:
        return "the model starts from pretrained weights"
    model = recipe.build(0)
    return why_not(model, recipe.train, trainer, sources.bucketed) or trial(
        recipe.build, recipe.train["optimizer"], recipe.losses(model), sources.waveforms.samples
    )


def _remembered(
    sources: Sequence[Sources],
    recipe: Recipe,
    trainer: Mapping[str, Any],
    device: torch.device,
    memory: Path | None,
) -> dict[str, Any]:
    """Return the `reason` against a stack, or None and the `seconds` of a step of all models by way.

    They are found at the first use on this machine, and again after a change of the code.
    """
    here = {
        "host": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": trainer["precision"],
        "model": decisive("model", recipe.model),
        "code": code_of("original", *targets_in(recipe.model)),
        "classes": len(recipe.labels),
        "samples": sources[0].waveforms.samples,
        "train": decisive("train", recipe.train),
        "compile": trainer["compile"],
        "bucketed": sources[0].bucketed,
        "models": len(sources),
    }
    key = key_of("stacked", here)[:12]
    path = None if memory is None else memory / FILE
    known = _read(path)
    if key not in known:
        reason, seconds = reason_against(sources[0], recipe, trainer), {}
        if reason is None:
            try:
                seconds = measured(sources, recipe, trainer["precision"], device)
            except RuntimeError as error:  # an operation that does not exist in this precision, or too little memory
                reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        known[key] = {**here, "reason": reason, "seconds": seconds}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    return dict(known[key])


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def measured(sources: Sequence[Sources], recipe: Recipe, precision: str, device: torch.device) -> dict[str, float]:
    """Measure the seconds of one step of all models: alone, or stacked with grouped convolutions or with products."""
    size = recipe.train["batch_size"]
    batches = [_first(one, size) for one in sources]
    models = [recipe.build(seed) for seed in range(len(sources))]
    ways: dict[str, Callable[[], object]] = {"alone": _alone(models[0], batches, recipe, precision, device)}
    for name in ("grouped", "products"):
        stack = Stack(
            models, recipe.train["optimizer"], recipe.losses(models[0]), device, precision, products=name == "products"
        )
        ways[name] = _stacked(stack, batches)
    found = dict.fromkeys(ways, float("inf"))
    for round_ in range(ROUNDS + 1):
        for name, step in ways.items():
            steps = STEPS[device.type] if round_ else (WARM if device.type == "cuda" else 1)
            started = time.perf_counter()
            for _ in range(steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:
                found[name] = min(found[name], (time.perf_counter() - started) / steps)
    found["alone"] *= len(models)
    return found


def _first(sources: Sources, size: int) -> Batch:
    return next(iter(islice(sources.shuffled(sources.rows["train"], size, ("measured",)), 1)))


def _stacked(stack: Stack, batches: Sequence[Batch]) -> Callable[[], object]:
    seeds = stack.seeds([(number,) for number in range(len(batches))])
    return lambda: stack.step(batches, seeds, 1e-5)


def _alone(
    model: nn.Module, batches: Sequence[Batch], recipe: Recipe, precision: str, device: torch.device
) -> Callable[[], object]:
    """Return an ordinary step of one model."""
    model = model.to(device, torch.float64 if precision == "64-true" else torch.float32).train()
    optimizer = make_optimizer(model.parameters(), recipe.train["optimizer"], 1e-5)
    losses, batch = recipe.losses(model), to_device(batches[0], device)
    inputs = [
        tensor.double() if precision == "64-true" and tensor.is_floating_point() else tensor for tensor in batch.inputs
    ]

    def step() -> None:
        optimizer.zero_grad()
        with computed_in(precision, device):
            loss = losses(model(*inputs).logits, batch.labels)[0].mean()
        loss.backward()
        optimizer.step()

    return step
