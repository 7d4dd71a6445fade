"""What training and unlearning share: atomic checkpoints after each epoch, a progress bar, and seeds that a resumed run finds again.

Of several ranks, rank 0 alone writes files and shows progress; what it decides by looking at files it tells the others.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from speechforget.batch import Batch, Pair, halves, to_device
from speechforget.data.batches.streams import Sources, Stream
from speechforget.distributed import collectives
from speechforget.errors import Diverged
from speechforget.models.folder import save_classifier
from speechforget.progress import bar
from speechforget.seeding import seed_from
from speechforget.store import check_held, write_json, write_text
from speechforget.store.files import sync
from speechforget.store.manifest import sha256
from speechforget.tracking.curves import Curve, Listener
from speechforget.training.cost_meter import Cost
from speechforget.training.device import make_trainer
from speechforget.training.finite import Watch, check_numbers, check_outputs, check_weights

logger = logging.getLogger(__name__)


class Resumable(Checkpoint):
    """Saves everything after each epoch, whole or not at all, and seeds torch anew at each epoch so that a resumed run draws the same."""

    def __init__(self, folder: Path, seed: int, cost: Cost, curve: Curve) -> None:
        self.path, self.hashes, self.seed, self.cost, self.curve = (
            folder / "checkpoint.ckpt",
            folder / "checkpoint.sha256",
            seed,
            cost,
            curve,
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seeds what is left to torch's generator (dropout)."""
        rank = [collectives.rank()] if collectives.rank() else []
        torch.manual_seed(seed_from(self.seed, "epoch", trainer.current_epoch, *rank))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes beside the old checkpoint, then replaces it."""
        self.cost.merge()
        check_held(self.path.parent)
        if collectives.rank() == 0:
            partial = self.path.with_suffix(".partial")
            try:
                trainer.save_checkpoint(partial)
            except RuntimeError as error:  # what torch makes of a disk that is full
                if "PytorchStreamWriter" in str(error) or "enforce fail" in str(error):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from error
                raise
            sync(partial)
            known = [sha256(path) for path in (self.path, partial) if path.exists()]
            write_text(
                self.hashes, "\n".join(known)
            )  # the old one's, too: at no moment is there a checkpoint without its hash
            partial.replace(self.path)

    def usable(self) -> bool:
        """Whether there is a checkpoint with the bytes that it was written with: torch does not notice others."""
        if not self.path.exists():
            return False
        if self.hashes.exists() and sha256(self.path) in self.hashes.read_text(errors="replace").split():
            return True
        logger.warning("The checkpoint in %s is damaged: this artefact is made from its beginning.", self.path.parent)
        return False

    def state_dict(self) -> dict[str, Any]:
        """The cost and the curve so far go with the checkpoint."""
        return {**self.cost.state_dict(), "curve": self.curve.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.cost.load_state_dict(state_dict)
        self.curve.restore(state_dict["curve"])


class Bar(Callback):
    """One progress bar over all steps of a fit."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description = total, description

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts where a resumed run left off."""
        self._bar = bar(total=self.total, description=self.description, unit="step", disable=collectives.rank() > 0)
        self._bar.update(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """One step."""
        self._bar.update(1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends the bar, also after a failure."""
        if hasattr(self, "_bar"):
            self._bar.close()


@dataclass(frozen=True)
class Job:
    """One artefact's making. folder: where it goes; trainer: hardware config; description: for the progress bar.

    listener: who is told the learning curve, on rank 0; watch: over what must stay finite.
    """

    folder: Path
    trainer: Mapping[str, Any]
    seed: int
    listener: Listener | None
    description: str
    watch: Watch = field(default_factory=Watch)


class Fitted(LightningModule):
    """What training and unlearning share as Lightning sees them. epochs: how many there will be at most."""

    def __init__(self, sources: Sources, job: Job, cost: Cost, epochs: int, epoch: str) -> None:
        """epoch: what one is called."""
        super().__init__()
        self.sources, self.cost, self.seed, self.watch = sources, cost, job.seed, job.watch
        self.epochs, self.epoch, self.averages = epochs, epoch, Averages()
        self.curve = Curve(job.folder if collectives.rank() == 0 else None, job.listener)

    def watched(self) -> AbstractContextManager[None]:
        """For the end of an epoch: what is not finite there ends the run."""
        return self.watch.watched(f"in {self.epoch} {self.current_epoch + 1} of {self.epochs}")

    def means(self, model: nn.Module) -> dict[str, float]:
        """The epoch's means. Raises FloatingPointError where one of them, or a weight of the model, is not finite; every rank calls this."""
        means = self.averages.means()
        check_numbers(means)
        check_weights(model)
        return means

    def add_point(self, means: Mapping[str, float], model: nn.Module, names: Sequence[str]) -> None:
        """A row of the learning curve: means, and accuracies on some sets. It decides nothing and costs nothing; every rank calls this."""
        with self.cost.paused():
            known = [name for name in names if len(self.sources.rows.get(name, ()))]
            accuracies = {
                f"{name}/accuracy": accuracy(model, self.sources.sharded(name, 256), self.device) for name in known
            }
        self.curve.add({"epoch": self.current_epoch, "step": self.trainer.global_step, **means, **accuracies})

    def transfer_batch_to_device(self, batch: Batch | Pair, device: torch.device, dataloader_idx: int) -> Batch | Pair:
        """Ours: Lightning's takes any structure apart, at each step."""
        if isinstance(batch, Pair):
            return Pair(
                None if batch.forget is None else to_device(batch.forget, device), to_device(batch.retain, device)
            )
        return to_device(batch, device)


class Averages:
    """Means over an epoch of what each step gives, over all ranks."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.sizes: dict[tuple[str, ...], Tensor | float] = {}

    def add(self, names: tuple[str, ...], parts: Tensor, batch: Batch | Pair) -> None:
        """parts: for each name this rank's part of the step's mean (see `ranks.part_of_loss`)."""
        first = halves(batch)[0]
        size = float(max(1, len(first.labels))) if first.weights is None else 1 / first.weights[0].to(parts.device)
        weighted = parts.detach().double() * size
        self.sums[names] = self.sums[names] + weighted if names in self.sums else weighted
        self.sizes[names] = self.sizes.get(names, 0.0) + size

    def means(self) -> dict[str, float]:
        """The means by name; starts anew. Every rank calls this."""
        found: dict[str, float] = {}
        for names, parts in self.sums.items():
            found |= dict(zip(names, (collectives.total(parts) / self.sizes[names]).reshape(-1).tolist(), strict=True))
        self.sums.clear()
        self.sizes.clear()
        return found


def fit(module: Fitted, job: Job, steps: int) -> None:
    """Fits the module's epochs (`steps` steps in all), from the folder's checkpoint where it holds one.

    Raises Diverged where numbers are not finite, and keeps no checkpoint then; KeyboardInterrupt where the user stops it.
    """
    resumable = Resumable(job.folder, job.seed, module.cost, module.curve)
    resume = resumable.path if collectives.agreed(collectives.rank() == 0 and resumable.usable()) else None
    if resume and collectives.rank() == 0:
        logger.info("Going on from the checkpoint that an earlier process left in %s.", job.folder)
    if not resume:
        module.curve.restore([])
    trainer = make_trainer(job.trainer, module.epochs, [resumable, Bar(steps, job.description)])
    interruption = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=False)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, interruption)  # Lightning ignores it from then on
        raise KeyboardInterrupt from None
    except Diverged:
        remove_checkpoint(job)
        raise
    collectives.check_replicas(module, "at the end")


def remove_checkpoint(job: Job) -> None:
    """Whatever a run would go on from."""
    if collectives.rank() == 0:
        for name in ("checkpoint.ckpt", "checkpoint.sha256", "checkpoint.partial"):
            (job.folder / name).unlink(missing_ok=True)


def finish(job: Job, classifier: nn.Module, parts: Mapping[str, Any], cost: Cost) -> None:
    """Leaves the model and its cost in the job's folder; the checkpoint has served. Every rank calls this.

    Raises Diverged where a weight is not finite.
    """
    try:
        with job.watch.watched("at the end"):
            check_weights(classifier)
    except Diverged:
        remove_checkpoint(job)
        raise
    cost.merge()
    if collectives.rank() == 0:
        save_classifier(job.folder, classifier, parts)
        write_json(job.folder / "cost.json", cost.record())
        remove_checkpoint(job)


@torch.no_grad()
def accuracy(model: nn.Module, stream: Stream, device: torch.device) -> float:
    """Share of the utterances classified correctly (nan for none), over the streams of all ranks; the model's mode is left as it was.

    Raises FloatingPointError where logits are not finite: the largest of them would mean nothing.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    double = any(
        parameter.dtype == torch.float64 for parameter in model.parameters()
    )  # Lightning then widens what it feeds; nobody else does
    counts = torch.zeros(3, dtype=torch.int64)
    for batch in stream:
        inputs = (
            tensor.to(device, torch.float64 if double and tensor.is_floating_point() else tensor.dtype)
            for tensor in batch.inputs
        )
        logits = model(*inputs).logits
        right, sound = torch.stack([logits.argmax(dim=1), logits.isfinite().all(dim=1)]).cpu()
        counts += torch.tensor([int((right == batch.labels).sum()), len(right), int((sound == 0).sum())])
    correct, seen, wrong = collectives.total(counts).tolist()
    for module, mode in training.items():
        module.training = mode
    check_outputs(wrong, seen)
    return correct / seen if seen else float("nan")
