"""What training and unlearning share: atomic checkpoints after each epoch, a progress bar, and seeds that a resumed run finds again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from speechforget.cost import Cost
from speechforget.data.streams import Sources, Stream
from speechforget.draws import seed_from
from speechforget.launch import make_trainer
from speechforget.progress import bar

logger = logging.getLogger(__name__)


class Resumable(Checkpoint):
    """Saves everything after each epoch, whole or not at all, and seeds torch anew at each epoch so that a resumed run draws the same."""

    def __init__(self, folder: Path, seed: int, cost: Cost) -> None:
        self.path, self.seed, self.cost = folder / "checkpoint.ckpt", seed, cost

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seeds what is left to torch's generator (dropout)."""
        torch.manual_seed(seed_from(self.seed, "epoch", trainer.current_epoch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes beside the old checkpoint, then replaces it."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        partial.replace(self.path)

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
        self._bar = bar(total=self.total, description=self.description, unit="step")
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
    """One artefact's making. folder: where it goes; trainer: hardware config; description: for the progress bar."""

    folder: Path
    trainer: Mapping[str, Any]
    seed: int
    tracker: Logger | None
    description: str


def fit(module: LightningModule, job: Job, epochs: int, steps: int, cost: Cost) -> None:
    """Fits `epochs` epochs (`steps` steps in all), from the folder's checkpoint where it holds one."""
    resumable = Resumable(job.folder, job.seed, cost)
    resume = resumable.path if resumable.path.exists() else None
    if resume:
        logger.info("Going on from the checkpoint that an earlier process left in %s.", job.folder)
    trainer = make_trainer(job.trainer, epochs, [resumable, Bar(steps, job.description)], job.tracker)
    trainer.fit(module, ckpt_path=resume, weights_only=False)


def end_fit(folder: Path) -> None:
    """The checkpoint has served."""
    (folder / "checkpoint.ckpt").unlink(missing_ok=True)


def log_accuracies(module: LightningModule, model: nn.Module, sources: Sources, names: Sequence[str], cost: Cost) -> None:
    """A point of the learning curve, where anybody watches; it decides nothing and costs nothing."""
    if module.logger is None:
        return
    with cost.paused():
        for name in names:
            if len(sources.rows.get(name, ())):
                module.log(f"{name}/accuracy", accuracy(model, sources.ordered(name, 256), module.device))


@torch.no_grad()
def accuracy(model: nn.Module, stream: Stream, device: torch.device) -> float:
    """Share of a stream's utterances classified correctly (nan for none); the model's mode is left as it was."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    correct = seen = 0
    for batch in stream:
        right = model(*(tensor.to(device) for tensor in batch.inputs)).logits.argmax(dim=1).cpu() == batch.labels
        correct, seen = correct + int(right.sum()), seen + len(right)
    for module, mode in training.items():
        module.training = mode
    return correct / seen if seen else float("nan")
