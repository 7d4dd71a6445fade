"""Fit a Lightning module with a checkpoint after each epoch, a progress bar and a learning curve.

With several ranks, only rank 0 reads and writes files and shows progress; it tells the others what it found.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from speechforget.batch import Batch, Pair, halves, to_device
from speechforget.data.batches.streams import Sources, Stream
from speechforget.distributed import collectives
from speechforget.errors import Diverged
from speechforget.methods.common.losses import cross_entropy
from speechforget.models.folder import save_classifier
from speechforget.progress import bar
from speechforget.recognition.ctc import right
from speechforget.store import write_json
from speechforget.tracking.curves import Curve, Listener
from speechforget.training.checkpoint import Resumable, remove_checkpoint
from speechforget.training.cost_meter import Cost
from speechforget.training.device import make_trainer
from speechforget.training.finite import Watch, check_numbers, check_outputs, check_weights

logger = logging.getLogger(__name__)


class Bar(Callback):
    """Show one progress bar over all steps of a fit."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description = total, description

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar at the step of a resumed run."""
        self._bar = bar(total=self.total, description=self.description, unit="step", disable=collectives.rank() > 0)
        self._bar.update(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count one step."""
        self._bar.update(1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar, also after a failure."""
        if hasattr(self, "_bar"):
            self._bar.close()


@dataclass(frozen=True)
class FitSettings:
    """What a fit needs beside model and data.

    folder: of the artefact. trainer: the hardware config. description: of the progress bar.
    listener: gets the learning curve on rank 0. watch: turns numbers that are not finite into errors.
    """

    folder: Path
    trainer: Mapping[str, Any]
    seed: int
    listener: Listener | None
    description: str
    watch: Watch = field(default_factory=Watch)


class Fitted(LightningModule):
    """Share what training and unlearning have in common. epochs: at most so many. epoch: the word for one."""

    def __init__(self, sources: Sources, settings: FitSettings, cost: Cost, epochs: int, epoch: str) -> None:
        super().__init__()
        self.sources, self.cost, self.seed, self.watch = sources, cost, settings.seed, settings.watch
        self.epochs, self.epoch, self.averages = epochs, epoch, Averages()
        self.curve = Curve(settings.folder if collectives.rank() == 0 else None, settings.listener)

    def watched(self) -> AbstractContextManager[None]:
        """Guard the end of an epoch: numbers that are not finite end the run."""
        return self.watch.watched(f"in {self.epoch} {self.current_epoch + 1} of {self.epochs}")

    def means(self, model: nn.Module) -> dict[str, float]:
        """Return the means of the epoch. Every rank calls this.

        Raises FloatingPointError if a mean or a weight of the model is not finite.
        """
        means = self.averages.means()
        check_numbers(means)
        check_weights(model)
        return means

    def add_point(self, means: Mapping[str, float], model: nn.Module, names: Sequence[str]) -> None:
        """Add a row to the learning curve: the means, and accuracies on some sets. Every rank calls this.

        It affects neither the model nor the recorded cost.
        """
        with self.cost.paused():
            known = [name for name in names if len(self.sources.rows.get(name, ()))]
            accuracies = {
                f"{name}/accuracy": measure(model, self.sources.sharded(name, 256), self.device).accuracy
                for name in known
            }
        self.curve.add({"epoch": self.current_epoch, "step": self.trainer.global_step, **means, **accuracies})

    def transfer_batch_to_device(self, batch: Batch | Pair, device: torch.device, dataloader_idx: int) -> Batch | Pair:
        """Move a batch or a pair; Lightning's own function searches any structure at each step and is slower."""
        if isinstance(batch, Pair):
            return Pair(
                None if batch.forget is None else to_device(batch.forget, device), to_device(batch.retain, device)
            )
        return to_device(batch, device)


class Averages:
    """Average the values of the steps of an epoch, over all ranks."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.sizes: dict[tuple[str, ...], Tensor | float] = {}

    def add(self, names: tuple[str, ...], parts: Tensor, batch: Batch | Pair) -> None:
        """Add this rank's part of the step's mean for each name (see `collectives.part_of_loss`)."""
        first = halves(batch)[0]
        size = float(max(1, len(first.labels))) if first.weights is None else 1 / first.weights[0].to(parts.device)
        weighted = parts.detach().double() * size
        self.sums[names] = self.sums[names] + weighted if names in self.sums else weighted
        self.sizes[names] = self.sizes.get(names, 0.0) + size

    def means(self) -> dict[str, float]:
        """Return the means by name and reset them. Every rank calls this."""
        found: dict[str, float] = {}
        for names, parts in self.sums.items():
            found |= dict(zip(names, (collectives.total(parts) / self.sizes[names]).reshape(-1).tolist(), strict=True))
        self.sums.clear()
        self.sizes.clear()
        return found


def fit(module: Fitted, settings: FitSettings, steps: int) -> None:
    """Fit all epochs of the module (`steps` steps), resuming from the checkpoint of the folder if there is one.

    Raises Diverged for numbers that are not finite, and then removes the checkpoint; KeyboardInterrupt if the user
    stops the run.
    """
    resumable = Resumable(settings.folder, settings.seed, module.cost, module.curve)
    resume = resumable.path if collectives.agreed(collectives.rank() == 0 and resumable.usable()) else None
    if resume and collectives.rank() == 0:
        logger.info("Resuming from the checkpoint in %s.", settings.folder)
    if not resume:
        module.curve.restore([])
    trainer = make_trainer(settings.trainer, module.epochs, [resumable, Bar(steps, settings.description)])
    interruption = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=False)
    except (SystemExit, RuntimeError) as error:  # RuntimeError: Lightning tears down what it has not set up yet
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, interruption)  # Lightning has made the process ignore it
        raise KeyboardInterrupt from None
    except Diverged:
        remove_checkpoint(settings.folder)
        raise
    collectives.check_replicas(module, "at the end")


def finish(settings: FitSettings, classifier: nn.Module, parts: Mapping[str, Any], cost: Cost) -> None:
    """Write the model and its cost to the folder and remove the checkpoint. Every rank calls this.

    Raises Diverged if a weight is not finite.
    """
    try:
        with settings.watch.watched("at the end"):
            check_weights(classifier)
    except Diverged:
        remove_checkpoint(settings.folder)
        raise
    cost.merge()
    if collectives.rank() == 0:
        save_classifier(settings.folder, classifier, parts)
        write_json(settings.folder / "cost.json", cost.record())
        remove_checkpoint(settings.folder)


class Measured(NamedTuple):
    """Hold accuracy, as a share, and mean cross-entropy, in nats (of texts: per frame); nan without utterances."""

    accuracy: float
    loss: float


@torch.no_grad()
def measure(model: nn.Module, stream: Stream, device: torch.device) -> Measured:
    """Measure a model over the streams of all ranks; restores the mode of the model.

    Raises FloatingPointError if logits are not finite: the largest of them would mean nothing.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    # Lightning feeds float64 to a float64 model in training; here it must be done by hand.
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    counts = torch.zeros(4, dtype=torch.float64)  # right, seen, not finite; sum of losses in nats
    for batch in stream:
        inputs = (
            tensor.to(device, torch.float64 if double and tensor.is_floating_point() else tensor.dtype)
            for tensor in batch.inputs
        )
        logits = model(*inputs).logits.double().cpu()
        sound, correct = logits.flatten(1).isfinite().all(dim=1), right(logits, batch.labels)
        loss = cross_entropy(logits, batch.labels).sum()
        found = int(correct.sum()), len(correct), int((~sound).sum()), float(loss)
        counts += torch.tensor(found, dtype=torch.float64)
    correct, seen, wrong, losses = collectives.total(counts).tolist()
    for module, mode in training.items():
        module.training = mode
    check_outputs(int(wrong), int(seen))
    return Measured(correct / seen, losses / seen) if seen else Measured(math.nan, math.nan)
