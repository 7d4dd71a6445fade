"""Damage the classes to forget with noise that the original classifies worst, then repair the others on retain.

UNSIR: Tarun, Chundawat, Mandal & Kankanhalli, "Fast yet effective machine unlearning", IEEE Transactions on Neural
Networks and Learning Systems 2023.

    noise    min_N  (1/n) sum_i [-l(s N_i, c; theta_o) + p || N_i ||^2]   for each forgotten class c
    impair   min_theta  E over the mix of l(s N_i, c; theta) and l(x, y; theta) on D_r'
    repair   min_theta  E_{D_r'} l(x, y; theta)                           with a new optimiser

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| n      | `noise_batch_size`: noise samples for each class, all of which are used                                   |
| N_i    | noise sample, at first standard normal; trained by `noise_steps` steps of Adam with `noise_learning_rate` |
| p      | `penalty`; the norm is summed over an utterance's features                                                |
| s      | standard deviation of each feature over D_r'; noise has the shape and length of D_r'                      |
| D_r'   | `retain_share` of retain (see `base/switches.py`)                                                         |
| mix    | `order`: `joint` = every batch of retain comes with a class's whole noise, and the classes take turns;    |
|        | `sequential` = all noise, `copies` times, and then retain, cut into batches of `batch_size` across their  |
|        | border                                                                                                    |
| l      | cross-entropy in nats                                                                                     |

All utterances and noise samples of a step have the same weight, also in a smaller last batch. They go through the model
in one batch, which batch-norm sees in its modes `batch` and `train`.
The method needs the indices of the classes to forget, and none of their utterances.

Differences from public code:
- The public code uses as many noise samples as the input has channels; sound has one. Here all noise samples are used.
- One version starts to impair with gradients left over from the noise. Here gradients are cleared.
- UnSLU-BENCH clamps the noise to [0, 1] and gives it labels of retain. Here neither is done.
- The public code trains batch-norm. Here impair passes keep it `frozen` by default, because the statistics of noise
  must not enter the model. Repair passes train it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.distributed.dropout import drawn_for
from speechforget.errors import UserError, nearest
from speechforget.methods.base.method import BatchNorm, Context, Evaluate, Method, Pass
from speechforget.methods.common.input_features import alike, deviation, features_of, heard, logits_of, normal
from speechforget.methods.common.losses import cross_entropy, step_size
from speechforget.seeding import seed_from


class Unsir(Method):
    """Train noise on the original, then make impair and repair passes over retain."""

    needs = frozenset({"retain"})
    noise: Tensor

    def __init__(
        self,
        impair_learning_rate: float,
        repair_learning_rate: float,
        batch_size: int,
        noise_batch_size: int,
        optimizer: Mapping[str, Any],
        noise_steps: int = 40,
        noise_learning_rate: float = 0.1,
        penalty: float = 0.1,
        impair_epochs: int = 1,
        repair_epochs: int = 1,
        order: Literal["joint", "sequential"] = "joint",
        copies: int = 20,
        impair_batch_norm: BatchNorm = "frozen",
        repair_batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if order not in ("joint", "sequential"):
            raise UserError(f"Unknown order '{order}' of noise and retain: {nearest(order, ('joint', 'sequential'))}")
        if min(noise_batch_size, copies, impair_epochs) < 1:
            raise UserError(
                "UNSIR needs noise to impair with: noise_batch_size, copies and impair_epochs must be at least 1."
            )
        self.impair_learning_rate, self.repair_learning_rate = impair_learning_rate, repair_learning_rate
        self.batch_size, self.noise_batch_size, self.copies, self.order = batch_size, noise_batch_size, copies, order
        self.noise_steps, self.noise_learning_rate, self.penalty = noise_steps, noise_learning_rate, penalty
        self.impair_epochs, self.repair_epochs = impair_epochs, repair_epochs
        self.impair_batch_norm, self.repair_batch_norm = impair_batch_norm, repair_batch_norm
        self.forgotten: tuple[int, ...] = ()
        self.step = 0  # of the current pass; a resumed run starts its pass again

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Train the noise of each forgotten class: features (classes, noise_batch_size, ...)."""
        if not context.forgotten:
            raise UserError(
                "UNSIR forgets whole classes, and this request names none: use task=class, or another method."
            )
        self.forgotten, self.seed = context.forgotten, context.seed
        model, first = context.original, next(iter(context.batches("retain", self.batch_size)))
        self.lengths = tuple(int(lengths.max()) for lengths in first.inputs[1:2])
        features = features_of(model, first)[:1].expand(
            self.noise_batch_size, *[-1] * (features_of(model, first).dim() - 1)
        )
        scale = deviation(context, "retain", self.batch_size)
        self.register_buffer(
            "noise", torch.zeros(len(self.forgotten), *features.shape, dtype=features.dtype, device=features.device)
        )
        for index, label in enumerate(self.forgotten):
            whole = self.noise_batch(label, features, slice(None))
            mask = heard(model, whole, features)
            start = self.start(whole, features, mask, label)
            mine = slice(collectives.rank(), None, collectives.world())  # noise samples do not depend on each other
            if len(start[mine]):
                batch = self.noise_batch(label, features, mine)
                self.noise[index, mine] = scale * self.learned(model, batch, start[mine], scale * mask[mine])
        self.noise.copy_(collectives.total(self.noise))

    def start(self, batch: Batch, features: Tensor, mask: Tensor, label: int) -> Tensor:
        """Draw the initial noise, in units of the deviation."""
        return normal(batch.rows, features, mask, seed_from(self.seed, "unsir", label))

    def learned(self, model: nn.Module, batch: Batch, start: Tensor, scale: Tensor) -> Tensor:
        """Train N (batch, ...), from `start`, to make the loss of a class large.

        No gradient remains in the model.
        """
        noise = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([noise], lr=self.noise_learning_rate)
        for _ in range(self.noise_steps):
            with torch.enable_grad():
                loss = self.penalty * noise.square().flatten(1).sum(dim=1) - cross_entropy(
                    logits_of(model, batch, scale * noise), batch.labels
                )
                (noise.grad,) = torch.autograd.grad(loss.sum() / self.noise_batch_size, noise)
            optimizer.step()
        return noise.detach()

    def noise_batch(self, label: int, features: Tensor, mine: slice) -> Batch:
        """Make a batch of some of a class's noise samples, with waveforms that are never used.

        features: (noise_batch_size, ...), of all noise samples of the class.
        """
        rows = torch.arange(self.noise_batch_size, device=features.device)[mine]
        lengths = (torch.full_like(rows, samples) for samples in self.lengths)
        waveform = torch.zeros(len(rows), 1, dtype=features.dtype, device=features.device)
        return Batch((waveform, *lengths), torch.full_like(rows, label), rows, torch.ones_like(rows, dtype=torch.bool))

    def passes(self) -> Sequence[Pass]:
        """Plan the impair passes, then the repair passes.

        With `sequential`, steps of noise alone come before each impair pass.
        """
        plan = []
        for epoch in range(self.impair_epochs):
            rate, mode = self.impair_learning_rate, self.impair_batch_norm
            steps, rest = divmod(self.noise_before_retain, self.batch_size)
            if steps:
                plan.append(Pass("nothing", self.batch_size, rate, mode, length=steps, epoch=epoch))
            plan.append(
                Pass("retain", self.batch_size, rate, mode, first=self.batch_size - rest if rest else None, epoch=epoch)
            )
        rate, mode = self.repair_learning_rate, self.repair_batch_norm
        for epoch in range(self.repair_epochs):
            number = self.impair_epochs + epoch
            plan.append(Pass("retain", self.batch_size, rate, mode, epoch=number, fresh_optimizer=epoch == 0))
        return plan

    @property
    def noise_before_retain(self) -> int:
        """Count the noise samples before retain in an epoch; 0 if they come together with retain."""
        return self.copies * max(1, len(self.forgotten)) * self.noise_batch_size if self.order == "sequential" else 0

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy on retain, on noise, or on both, with equal weight for each sample of the step.

        With several ranks, the result is this rank's part.
        """
        noise = self.turn(current)
        self.step += 1
        if not len(noise):
            return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
        count = len(noise) + (0 if current.stream == "nothing" else round(step_size(batch)))
        joined, features = self.joined(student, batch, noise[collectives.rank() :: collectives.world()])
        with drawn_for(joined, self.seed, "unsir", current.epoch):
            values = cross_entropy(logits_of(student, joined, features), joined.labels)
        retain = values[: len(batch.labels)]
        if self.curriculum is not None and len(retain):
            retain = self.curriculum(retain, batch) * retain
        return (retain.sum() + values[len(batch.labels) :].sum()) / count

    def turn(self, current: Pass) -> Tensor:
        """Select the noise samples of the current step, (some,).

        They are counted from 0 through all classes, again and again.
        """
        first, last = self.step * self.noise_batch_size, (self.step + 1) * self.noise_batch_size
        if current.stream == "nothing":
            first, last = self.step * current.batch_size, (self.step + 1) * current.batch_size
        elif current.epoch >= self.impair_epochs:
            first = last = 0
        elif self.order == "sequential":
            whole = self.noise_before_retain
            first, last = (whole - whole % self.batch_size, whole) if self.step == 0 else (0, 0)
        return torch.arange(first, last, device=self.noise.device)

    def joined(self, student: nn.Module, batch: Batch, noise: Tensor) -> tuple[Batch, Tensor]:
        """Join a step's utterances, if any, and some of the noise into one batch, with its features."""
        flat = self.noise.flatten(0, 1)
        indices = noise % len(flat)
        labels = torch.tensor(self.forgotten, device=flat.device)[indices // self.noise_batch_size]
        lengths = [torch.full_like(indices, samples) for samples in self.lengths]
        # Noise gets draws of its own: no utterance has a negative number.
        rows = -1 - self.step * len(flat) - indices
        features = flat[indices]
        if len(batch.labels):
            features = torch.cat(alike(student.frontend(*batch.inputs), features))  # type: ignore[operator]
            lengths = [torch.cat(pair) for pair in zip(batch.inputs[1:2], lengths, strict=True)]
            labels, rows = torch.cat([batch.labels, labels]), torch.cat([batch.rows, rows])
        waveform = torch.zeros(len(rows), 1, dtype=flat.dtype, device=flat.device)
        return Batch((waveform, *lengths), labels, rows, torch.zeros_like(rows, dtype=torch.bool)), features

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Reset the step count for the next pass."""
        self.step = 0
        return False
