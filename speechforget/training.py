"""Stage: supervised training. The original and the oracle come from the same function; only the utterances differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.cost import Cost
from speechforget.data.streams import Sources, Stream
from speechforget.draws import seed_from
from speechforget.fitting import Job, end_fit, fit, log_accuracies
from speechforget.launch import start_process
from speechforget.loading import build_classifier, save_classifier
from speechforget.optimizers import make_optimizer
from speechforget.store import write_json

VERSION = 1  # of what this stage computes: raise it whenever the same inputs give other weights


class Supervised(LightningModule):
    """Cross-entropy on the `train` utterances: warm-up, then cosine to zero, step by step."""

    def __init__(self, classifier: nn.Module, sources: Sources, train: Mapping[str, Any], seed: int, cost: Cost) -> None:
        super().__init__()
        self.classifier, self.sources, self.recipe, self.seed, self.cost = classifier, sources, train, seed, cost
        self.steps_per_epoch = -(-len(sources.rows["train"]) // train["batch_size"])

    def train_dataloader(self) -> Stream:
        """This epoch's stream."""
        return self.sources.shuffled(self.sources.rows["train"], self.recipe["batch_size"], (self.seed, "train", self.current_epoch))

    def on_train_epoch_start(self) -> None:
        """Training mode, whatever the last evaluation left."""
        self.classifier.train()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Mean cross-entropy of a batch in nats."""
        logits = self.classifier(*batch.inputs).logits
        loss = nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.recipe["label_smoothing"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        self.log("train/accuracy", (logits.argmax(dim=1) == batch.labels).float().mean(), on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def on_train_epoch_end(self) -> None:
        """Validation draws curves and decides nothing: the last epoch's weights are the model."""
        log_accuracies(self, self.classifier, self.sources, ("validation", "validation_forgotten"), self.cost)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser with one learning rate a step."""
        optimizer = make_optimizer(self.classifier.parameters(), self.recipe["optimizer"], self.recipe["learning_rate"])
        warmup, total = (self.recipe[name] * self.steps_per_epoch for name in ("warmup", "epochs"))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, warmup, total, self.recipe["schedule"]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, warmup: float, total: int, schedule: str) -> float:
    """Share of the peak learning rate at a step: linear over `warmup` steps, then `cosine` to zero at `total`, or `constant`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(total - warmup, 1))))


def train(job: Job, sources: Sources, labels: Sequence[str], dataset: Mapping[str, Any], model: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Trains a classifier from scratch on the `train` rows of `sources` and leaves model and cost in the job's folder.

    dataset: sample_rate (Hz) and seconds. recipe: conf/train.
    """
    start_process(job.trainer)
    torch.manual_seed(seed_from(job.seed, "initialisation"))
    classifier = build_classifier(model, len(labels), dataset["sample_rate"])
    cost = Cost()
    cost.watch(classifier)
    module = Supervised(classifier, sources, recipe, job.seed, cost)
    with cost:
        fit(module, job, recipe["epochs"], recipe["epochs"] * module.steps_per_epoch, cost)
    parts = {"model": dict(model), "labels": list(labels), "sample_rate": dataset["sample_rate"], "seconds": dataset["seconds"]}
    save_classifier(job.folder, classifier, parts)
    write_json(job.folder / "cost.json", cost.record())
    end_fit(job.folder)
