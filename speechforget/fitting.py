"""What training and unlearning share: atomic checkpoints after each epoch, a progress bar, and seeds that a resumed run finds again.

Of several ranks, rank 0 alone writes files and shows progress; what it decides by looking at files it tells the others.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from speechforget import ranks
from speechforget.batch import Batch, Pair, halves, to_device
from speechforget.cost import Cost
from speechforget.data.streams import Sources, Stream
from speechforget.draws import seed_from
from speechforget.launch import make_trainer
from speechforget.loading import save_classifier
from speechforget.progress import bar
from speechforget.store import check_held, write_json, write_text
from speechforget.store.done import sha256
from speechforget.store.files import sync

logger = logging.getLogger(__name__)


class Resumable(Checkpoint):
    """Saves everything after each epoch, whole or not at all, and seeds torch anew at each epoch so that a resumed run draws the same."""

    def __init__(self, folder: Path, seed: int, cost: Cost) -> None:
        self.path, self.hashes, self.seed, self.cost = folder / "checkpoint.ckpt", folder / "checkpoint.sha256", seed, cost

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seeds what is left to torch's generator (dropout)."""
        rank = [ranks.rank()] if ranks.rank() else []
        torch.manual_seed(seed_from(self.seed, "epoch", trainer.current_epoch, *rank))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes beside the old checkpoint, then replaces it."""
        self.cost.merge()
        check_held(self.path.parent)
        if ranks.rank() == 0:
            partial = self.path.with_suffix(".partial")
            try:
                trainer.save_checkpoint(partial)
            except RuntimeError as error:  # what torch makes of a disk that is full
                if "PytorchStreamWriter" in str(error) or "enforce fail" in str(error):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from error
                raise
            sync(partial)
            known = [sha256(path) for path in (self.path, partial) if path.exists()]
            write_text(self.hashes, "\n".join(known))  # the old one's, too: at no moment is there a checkpoint without its hash
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
        """The cost so far goes with the checkpoint."""
        return self.cost.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting from there."""
        self.cost.load_state_dict(state_dict)


class Bar(Callback):
    """One progress bar over all steps of a fit."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description = total, description

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts where a resumed run left off."""
        self._bar = bar(total=self.total, description=self.description, unit="step", disable=ranks.rank() > 0)
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

    tracker: rank 0's, where there is one; curves: whether there is one, the same on all ranks.
    """

    folder: Path
    trainer: Mapping[str, Any]
    seed: int
    tracker: Logger | None
    description: str
    curves: bool = False


class Fitted(LightningModule):
    """What training and unlearning share as Lightning sees them."""

    def transfer_batch_to_device(self, batch: Batch | Pair, device: torch.device, dataloader_idx: int) -> Batch | Pair:
        """Ours: Lightning's takes any structure apart, at each step."""
        if isinstance(batch, Pair):
            return Pair(None if batch.forget is None else to_device(batch.forget, device), to_device(batch.retain, device))
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

    def log(self, module: LightningModule) -> None:
        """Hands the means to the module's logger, and starts anew; every rank calls this."""
        for names, parts in self.sums.items():
            for name, mean in zip(names, (ranks.total(parts) / self.sizes[names]).float().reshape(-1), strict=True):
                module.log(name, mean)
        self.sums.clear()
        self.sizes.clear()


def fit(module: LightningModule, job: Job, epochs: int, steps: int, cost: Cost) -> None:
    """Fits `epochs` epochs (`steps` steps in all), from the folder's checkpoint where it holds one."""
    resumable = Resumable(job.folder, job.seed, cost)
    resume = resumable.path if ranks.agreed(ranks.rank() == 0 and resumable.usable()) else None
    if resume and ranks.rank() == 0:
        logger.info("Going on from the checkpoint that an earlier process left in %s.", job.folder)
    trainer = make_trainer(job.trainer, epochs, [resumable, Bar(steps, job.description)], job.tracker)
    trainer.fit(module, ckpt_path=resume, weights_only=False)
    ranks.check_replicas(module, "at the end")


def finish(job: Job, classifier: nn.Module, parts: Mapping[str, Any], cost: Cost) -> None:
    """Leaves the model and its cost in the job's folder; the checkpoint has served. Every rank calls this."""
    cost.merge()
    if ranks.rank() == 0:
        save_classifier(job.folder, classifier, parts)
        write_json(job.folder / "cost.json", cost.record())
        for name in ("checkpoint.ckpt", "checkpoint.sha256", "checkpoint.partial"):
            (job.folder / name).unlink(missing_ok=True)


def log_accuracies(module: LightningModule, model: nn.Module, sources: Sources, names: Sequence[str], cost: Cost) -> None:
    """A point of the learning curve; it decides nothing and costs nothing."""
    with cost.paused():
        for name in names:
            if len(sources.rows.get(name, ())):
                module.log(f"{name}/accuracy", accuracy(model, sources.divided(name, 256), module.device))


@torch.no_grad()
def accuracy(model: nn.Module, stream: Stream, device: torch.device) -> float:
    """Share of the utterances classified correctly (nan for none), over the streams of all ranks; the model's mode is left as it was."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    counts = torch.zeros(2, dtype=torch.int64)
    for batch in stream:
        right = model(*(tensor.to(device) for tensor in batch.inputs)).logits.argmax(dim=1).cpu() == batch.labels
        counts += torch.tensor([int(right.sum()), len(right)])
    correct, seen = ranks.total(counts).tolist()
    for module, mode in training.items():
        module.training = mode
    return correct / seen if seen else float("nan")
