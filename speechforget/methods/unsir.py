"""UNSIR: spoil a class with noise that the original gets most wrong about it, then repair the rest.

Tarun, Chundawat, Mandal & Kankanhalli, "Fast yet effective machine unlearning", IEEE Transactions on Neural Networks and Learning Systems 2023.

    noise    min_N  (1/n) sum_i [-l(s N_i, c; theta_o) + p || N_i ||^2]          for each forgotten class c, N_i at first standard normal
    impair   min_theta  E over the mix of l(s N_i, c; theta) and l(x, y; theta) on D_r'
    repair   min_theta  E_{D_r'} l(x, y; theta)                                   with a new optimiser

| symbol | argument                                                                                                           |
|--------|--------------------------------------------------------------------------------------------------------------------|
| n      | `noise_batch_size`: noise samples for each class, all of which are used                                              |
| noise  | `noise_steps` steps of Adam with `noise_learning_rate`; p: `penalty`, the norm summed over an utterance's features     |
| s      | the standard deviation of each feature over D_r', whose shape and length noise has                                   |
| D_r'   | `retain_share` of retain (see `switches.py`)                                                                         |
| mix    | `order`: `joint` = every batch of retain comes with a class's whole noise, each utterance and sample of equal weight;  |
|        | `sequential` = all noise, `copies` times over, then retain                                                           |
| l      | cross-entropy in nats                                                                                                |

It needs the numbers of the classes that are to go, and none of their utterances. The public code lets as many noise samples in as the input has
channels, of which sound has one; one version starts to impair with gradients that the noise left behind; UnSLU-BENCH's clamps the noise to [0, 1] and
gives it labels of retain. Nothing of this is done here. The public code trains batch-norm; here the impair passes leave it `frozen` by default, as
the statistics of noise must not move into the model, and the repair passes train it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechforget import ranks
from speechforget.batch import Batch
from speechforget.draws import seed_from
from speechforget.dropout import drawn_for
from speechforget.errors import UserError, nearest
from speechforget.methods.features import deviation, features_of, heard, logits_of, normal
from speechforget.methods.losses import cross_entropy
from speechforget.methods.method import BatchNorm, Context, Evaluate, Method, Pass


class Unsir(Method):
    """Noise from the original, then impair and repair passes over retain."""

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
            raise UserError("UNSIR needs noise to impair with: noise_batch_size, copies and impair_epochs must be at least 1.")
        self.impair_learning_rate, self.repair_learning_rate = impair_learning_rate, repair_learning_rate
        self.batch_size, self.noise_batch_size, self.copies, self.order = batch_size, noise_batch_size, copies, order
        self.noise_steps, self.noise_learning_rate, self.penalty = noise_steps, noise_learning_rate, penalty
        self.impair_epochs, self.repair_epochs = impair_epochs, repair_epochs
        self.impair_batch_norm, self.repair_batch_norm = impair_batch_norm, repair_batch_norm
        self.forgotten: tuple[int, ...] = ()
        self.step = 0  # of the pass: a pass is begun anew when a run is resumed

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The noise of each forgotten class: features (classes, noise_batch_size, ...)."""
        if not context.forgotten:
            raise UserError("UNSIR forgets whole classes, and this request names none: use task=class, or another method.")
        self.forgotten, self.seed = context.forgotten, context.seed
        model, first = context.original, next(iter(context.batches("retain", self.batch_size)))
        self.lengths = tuple(int(lengths.max()) for lengths in first.inputs[1:2])
        features = features_of(model, first)[:1].expand(self.noise_batch_size, *[-1] * (features_of(model, first).dim() - 1))
        scale = deviation(context, "retain", self.batch_size)
        self.register_buffer("noise", torch.zeros(len(self.forgotten), *features.shape, dtype=features.dtype, device=features.device))
        for place, label in enumerate(self.forgotten):
            whole = self.noise_batch(label, features, slice(None))
            mask = heard(model, whole, features)
            start = self.start(whole, features, mask, label)
            mine = slice(ranks.rank(), None, ranks.world())  # no sample's noise depends on the others'
            if len(start[mine]):
                batch = self.noise_batch(label, features, mine)
                self.noise[place, mine] = scale * self.learned(model, batch, start[mine], scale * mask[mine])
        self.noise.copy_(ranks.total(self.noise))

    def start(self, batch: Batch, features: Tensor, mask: Tensor, label: int) -> Tensor:
        """Noise before it is learned, in units of the deviation."""
        return normal(batch.rows, features, mask, seed_from(self.seed, "unsir", label))

    def learned(self, model: nn.Module, batch: Batch, start: Tensor, scale: Tensor) -> Tensor:
        """N (batch, ...) that makes the loss of a class large, from `start`; no gradient is left in the model."""
        noise = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([noise], lr=self.noise_learning_rate)
        for _ in range(self.noise_steps):
            with torch.enable_grad():
                loss = self.penalty * noise.square().flatten(1).sum(dim=1) - cross_entropy(logits_of(model, batch, scale * noise), batch.labels)
                (noise.grad,) = torch.autograd.grad(loss.sum() / self.noise_batch_size, noise)
            optimizer.step()
        return noise.detach()

    def noise_batch(self, label: int, features: Tensor, mine: slice) -> Batch:
        """Some of a class's noise samples as utterances whose waveform nobody hears; features (noise_batch_size, ...) of all."""
        rows = torch.arange(self.noise_batch_size, device=features.device)[mine]
        lengths = (torch.full_like(rows, samples) for samples in self.lengths)
        waveform = torch.zeros(len(rows), 1, dtype=features.dtype, device=features.device)
        return Batch((waveform, *lengths), torch.full_like(rows, label), rows, torch.ones_like(rows, dtype=torch.bool))

    def passes(self) -> Sequence[Pass]:
        """Impair passes, with steps of noise alone before each if `sequential`; then repair passes."""
        plan = []
        for epoch in range(self.impair_epochs):
            rate, mode = self.impair_learning_rate, self.impair_batch_norm
            if self.order == "sequential":
                steps = self.copies * max(1, len(self.forgotten))
                plan.append(Pass("nothing", self.noise_batch_size, rate, mode, length=steps, epoch=epoch))
            plan.append(Pass("retain", self.batch_size, rate, mode, epoch=epoch))
        rate, mode = self.repair_learning_rate, self.repair_batch_norm
        for epoch in range(self.repair_epochs):
            number = self.impair_epochs + epoch
            plan.append(Pass("retain", self.batch_size, rate, mode, epoch=number, fresh_optimizer=epoch == 0))
        return plan

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy on retain, on noise, or on both, each sample of the step with the same weight."""
        if current.stream == "nothing":
            return self.noise_loss(student, current.epoch)
        retain = self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
        if self.order == "sequential" or current.epoch >= self.impair_epochs:
            return retain
        whole = self.noise_batch_size < ranks.world()
        noise = ranks.part_of_loss(whole, lambda: self.noise_loss(student, current.epoch))  # last: it has draws of its own
        return (self.batch_size * retain + self.noise_batch_size * noise) / (self.batch_size + self.noise_batch_size)

    def noise_loss(self, student: nn.Module, epoch: int) -> Tensor:
        """Mean cross-entropy of the noise whose turn it is; of several ranks this one's part."""
        place = self.step % len(self.forgotten)
        mine = slice(ranks.rank(), None, ranks.world())
        batch = self.noise_batch(self.forgotten[place], self.noise[place], mine)
        with drawn_for(batch, self.seed, "unsir", epoch, self.step):
            logits = logits_of(student, batch, self.noise[place, mine])
        self.step += 1
        return cross_entropy(logits, batch.labels).sum() / self.noise_batch_size

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """The next pass counts its own steps."""
        self.step = 0
        return False
