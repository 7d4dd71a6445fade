"""Stage: train a classifier. The same function makes the original and the oracle; only the utterances differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch, is_whole
from speechforget.data.batches.streams import Sources, Stream
from speechforget.distributed import collectives
from speechforget.distributed.dropout import drawn_for
from speechforget.methods.common.losses import cross_entropy, mean
from speechforget.models.folder import build_classifier
from speechforget.optimizers import make_optimizer
from speechforget.recognition.ctc import is_text, right
from speechforget.seeding import seed_from
from speechforget.stages.transcript_columns import check_frames
from speechforget.training.checkpoint import begin_from, keep_state
from speechforget.training.cost_meter import Cost
from speechforget.training.device import compiled, start_process
from speechforget.training.loop import FitSettings, Fitted, finish, fit

VERSION = 4  # raise it whenever the same inputs give other weights


class Supervised(Fitted):
    """Minimise the cross-entropy on the `train` utterances; the learning rate changes at each step.

    epochs: after which to stop, if not after all of the recipe. done: epochs of the recipe that lie behind.
    pace: epochs of the recipe's schedule for each epoch of this fit.
    """

    done: int = 0
    pace: float = 1

    def __init__(
        self,
        classifier: nn.Module,
        sources: Sources,
        train: Mapping[str, Any],
        settings: FitSettings,
        cost: Cost,
        epochs: int | None = None,
    ) -> None:
        super().__init__(sources, settings, cost, train["epochs"] if epochs is None else epochs, "epoch")
        self.classifier, self.recipe = classifier, train
        self.steps_per_epoch = steps_of(sources, train)

    def train_dataloader(self) -> Stream:
        """Return the stream of this epoch."""
        return self.sources.shuffled(
            self.sources.rows["train"], self.recipe["batch_size"], (self.seed, "train", self.done + self.current_epoch)
        )

    def on_train_epoch_start(self) -> None:
        """Set training mode: an evaluation may have left another one."""
        self.classifier.train()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the mean cross-entropy of a batch in nats, or this rank's part of it."""
        with drawn_for(batch, self.seed, "train", self.done + self.current_epoch):
            both = collectives.part_of_loss(is_whole(batch), lambda: self._loss_and_accuracy(batch))
        self.averages.add(("train/loss", "train/accuracy"), both, batch)
        return both[0]

    def _loss_and_accuracy(self, batch: Batch) -> Tensor:
        found = losses_and_hits(self.classifier, self.recipe, self.classifier(*batch.inputs).logits, batch.labels)
        return torch.stack([mean(values, batch) for values in found])

    def on_after_backward(self) -> None:
        """Sum the gradients of all ranks to those of the whole batch."""
        collectives.sum_gradients(self.classifier)

    def on_train_epoch_end(self) -> None:
        """Add a point to the learning curve. It decides nothing: the model has the weights of the last epoch."""
        collectives.check_replicas(self.classifier, f"after epoch {self.current_epoch}")
        with self.watched():
            self.add_point(self.means(self.classifier), self.classifier, ("validation", "validation_forgotten"))

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the recipe with a learning rate for each step."""
        optimizer = make_optimizer(self.classifier.parameters(), self.recipe["optimizer"], self.recipe["learning_rate"])
        warmup, total = (self.recipe[name] * self.steps_per_epoch for name in ("warmup", "epochs"))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                self.done * self.steps_per_epoch + step * self.pace, warmup, total, self.recipe["schedule"]
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def losses_and_hits(
    classifier: nn.Module, recipe: Mapping[str, Any], logits: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy in nats of each utterance, and 1 for each one whose class was found, else 0: (batch,).

    The margin of the logit is the margin of cosines times the scale (Wang et al., 2018, equation 5). Texts have neither
    margin nor smoothing.
    """
    hits = right(logits, labels)
    if is_text(logits):
        losses = cross_entropy(logits, labels)
        return losses, hits.to(losses.dtype)
    if recipe["margin"]:
        margin = float(classifier.head.scale) * float(recipe["margin"])  # type: ignore[union-attr, arg-type]
        logits = logits - margin * nn.functional.one_hot(labels, logits.shape[1])
    losses = nn.functional.cross_entropy(logits, labels, label_smoothing=recipe["label_smoothing"], reduction="none")
    return losses, hits.to(losses.dtype)


def new_classifier(model: Mapping[str, Any], classes: int, sample_rate: int, seed: int) -> nn.Module:
    """Build a classifier with the weights that a seed draws. sample_rate: in Hz."""
    torch.manual_seed(seed_from(seed, "initialisation"))
    return build_classifier(model, classes, sample_rate)


def description(model: Mapping[str, Any], labels: Sequence[str], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `model.json` says of a trained classifier."""
    heard = {name: dataset[name] for name in ("sample_rate", "seconds")}
    return {"model": dict(model), "labels": list(labels), **heard}


def learning_rate_factor(step: float, warmup: float, total: int, schedule: str) -> float:
    """Return the share of the peak learning rate at a step.

    It rises over `warmup` steps; then it falls to zero at `total` (`cosine`, `linear`) or stays (`constant`).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    gone = min(1.0, (step - warmup) / max(total - warmup, 1))
    return 1 - gone if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * gone))


def steps_of(sources: Sources, recipe: Mapping[str, Any]) -> int:
    """Count the steps of an epoch."""
    return int(-(-len(sources.rows["train"]) // recipe["batch_size"]))


def train(
    settings: FitSettings,
    sources: Sources,
    labels: Sequence[str],
    dataset: Mapping[str, Any],
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    start: Path | None = None,
    until: int | None = None,
) -> None:
    """Train a classifier from scratch on the `train` rows of `sources`; write model and cost to the folder.

    labels: names of the outputs, in order. dataset: sample_rate (Hz) and seconds. recipe: of conf/train.
    start: the folder of a kept epoch of this training, to continue from there. until: the epoch after which to stop and
    to keep the state of the training; None: the last one, and no state.
    """
    start_process(settings.trainer)
    classifier = new_classifier(model, len(labels), dataset["sample_rate"], settings.seed)
    check_frames(classifier, sources)
    cost = Cost()
    cost.watch(classifier)
    collectives.share_state(classifier)
    compiled(classifier, settings.trainer)
    module = Supervised(classifier, sources, recipe, settings, cost, until)
    if start is not None:
        begin_from(start, settings.folder)
    with cost:
        if module.epochs:
            fit(module, settings, module.epochs * module.steps_per_epoch)
    if until is not None:
        keep_state(settings.folder)
    finish(settings, classifier, description(model, labels, dataset), cost)
