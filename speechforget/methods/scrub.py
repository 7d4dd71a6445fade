"""Move the student away from the original on forget, and keep it close on retain; with rewinding, SCRUB+R.

Kurmanji, Triantafillou, Hayes & Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023.

    forget pass   max_theta  E_{D_f} d(x; theta)
    retain pass   min_theta  E_{D_r} [alpha * d(x; theta) + gamma * l(x, y; theta)]
    d = T^2 * KL(softmax(z_o / T) || softmax(z_theta / T)),  summed over classes, mean over the batch

| symbol       | meaning                                                                                              |
|--------------|------------------------------------------------------------------------------------------------------|
| alpha, gamma | `alpha`, `gamma`                                                                                     |
| l            | cross-entropy in nats                                                                                |
| T            | `temperature`                                                                                        |
| z_o, z_theta | logits of the original, frozen and in evaluation mode; logits of the student                         |
| max steps    | `forget_epochs`: epoch e = 0, 1, ... has a forget pass, before its retain pass, while e <            |
|              | forget_epochs                                                                                        |
| schedule     | learning rate times `decay` for each number in `decay_after` that the count of finished epochs has   |
|              | reached                                                                                              |
| rewinding    | `rewind`: among the models after 0..E epochs, take the one with the forget error closest to the last |
|              | model's error on validation utterances of the request's classes; the first, if tied                  |

Differences from public code:
- The notebooks rewind to the checkpoint one epoch after the chosen one. Here index i is the model after i epochs.
- UnSLU-BENCH and ERASURE end each epoch with the forget pass. Here the retain pass is last.
- The notebooks let forget passes update the running statistics. Here forget passes use the batch's statistics
  (`forget_batch_norm: batch`). With `frozen` there would be no gradient at first, because student and teacher agree.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.base.method import BatchNorm, Context, Evaluate, Method, Pass, frozen_copy
from speechforget.methods.common.losses import cross_entropy, divergence

logger = logging.getLogger(__name__)
State = dict[str, Tensor]


class Scrub(Method):
    """Train each epoch on forget (while e < `forget_epochs`), then on retain; one optimiser serves both."""

    def __init__(
        self,
        learning_rate: float,
        epochs: int,
        forget_epochs: int,
        forget_batch_size: int,
        retain_batch_size: int,
        alpha: float,
        gamma: float,
        temperature: float,
        optimizer: Mapping[str, Any],
        decay_after: Sequence[int] = (),
        decay: float = 0.1,
        rewind: bool = False,
        forget_batch_norm: BatchNorm = "batch",
        retain_batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        self.learning_rate, self.epochs, self.forget_epochs = learning_rate, epochs, forget_epochs
        self.forget_batch_size, self.retain_batch_size = forget_batch_size, retain_batch_size
        self.alpha, self.gamma, self.temperature, self.rewind = alpha, gamma, temperature, rewind
        self.decay_after, self.decay = tuple(decay_after), decay
        self.forget_batch_norm, self.retain_batch_norm = forget_batch_norm, retain_batch_norm
        self.needs = frozenset({"forget", "retain", "validation"} if rewind else {"forget", "retain"})
        self.snapshots: list[State] = []

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teacher, and store the original as the first model to rewind to."""
        self.teacher = frozen_copy(context.original)
        self.snapshots = [snapshot(context.original)] if self.rewind else []

    def passes(self) -> Sequence[Pass]:
        """Make a forget pass (while e < forget_epochs) and a retain pass per epoch."""
        plan = []
        for epoch in range(self.epochs):
            rate = self.learning_rate * self.decay ** sum(epoch >= done for done in self.decay_after)
            if epoch < self.forget_epochs:
                plan.append(Pass("forget", self.forget_batch_size, rate, self.forget_batch_norm, epoch=epoch))
            plan.append(Pass("retain", self.retain_batch_size, rate, self.retain_batch_norm, epoch=epoch))
        return plan

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute minus the distance to the original on forget; distance and cross-entropy on retain."""
        with torch.no_grad():
            original = self.teacher(*batch.inputs).logits
        logits = student(*batch.inputs).logits
        distance = self.temperature**2 * divergence(original, logits, self.temperature)
        if current.stream == "forget":
            return -self.mean(distance, batch)
        return self.mean(self.alpha * distance + self.gamma * cross_entropy(logits, batch.labels), batch)

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Store the model of each epoch; rewind after the last one."""
        if self.rewind and self.passes()[index].stream == "retain":
            self.snapshots.append(snapshot(student))
            if len(self.snapshots) > self.epochs:
                chosen = rewind(student, self.snapshots, evaluate)
                if chosen in (0, self.epochs):
                    what = "the original itself" if chosen == 0 else "the last one, so nothing was taken back"
                    logger.warning("SCRUB rewound to the model after %d of %d epochs: %s.", chosen, self.epochs, what)
        return False

    def get_extra_state(self) -> list[State]:
        """Return the stored models, so that a resumed run can rewind to them."""
        return self.snapshots

    def set_extra_state(self, state: list[State]) -> None:
        """Restore the state of `get_extra_state`."""
        self.snapshots = state


def snapshot(model: nn.Module) -> State:
    """Copy all weights and buffers to main memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def rewind(student: nn.Module, snapshots: Sequence[State], evaluate: Evaluate) -> int:
    """Load the snapshot with the forget error closest to the student's validation error; return its index.

    The student is the model of the last snapshot. Differences are rounded, so that equal ones count as tied; the first
    is then taken.
    Raises UserError without validation utterances.
    """
    reference = evaluate("validation")
    if math.isnan(reference):
        raise UserError(
            "SCRUB rewinds by validation utterances of the request's classes, and there are none: "
            "raise dataset.validation, or set method.rewind=false."
        )
    gaps = []
    for state in snapshots:
        student.load_state_dict(state)
        gaps.append(round(abs(evaluate("forget") - reference), 9))
    chosen = gaps.index(min(gaps))
    student.load_state_dict(snapshots[chosen])
    return chosen
