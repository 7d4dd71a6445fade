"""SCRUB: move away from the original on forget, stay with it on retain; with rewinding, SCRUB+R.

Kurmanji, Triantafillou, Hayes & Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023.

    forget pass   max_theta  E_{D_f} d(x; theta)
    retain pass   min_theta  E_{D_r} [alpha * d(x; theta) + gamma * l(x, y; theta)]
    d = T^2 * KL(softmax(z_o / T) || softmax(z_theta / T)),  summed over classes, mean over the batch

| symbol       | argument                                                                                                        |
|--------------|-----------------------------------------------------------------------------------------------------------------|
| alpha, gamma | `alpha`, `gamma`; l is cross-entropy in nats                                                                    |
| T, z_o       | `temperature`; logits of the original, frozen, in evaluation mode                                               |
| max steps    | `forget_epochs`: epoch e = 0, 1, ... has its forget pass, before its retain pass, while e < forget_epochs       |
| schedule     | learning rate times `decay` for each number in `decay_after` of epochs that are done                            |
| rewinding    | `rewind`: of the models after 0..E epochs take the one whose forget error is nearest (the first, if tied) to the |
|              | error of the last model on validation utterances of the request's classes                                       |

Where public code differs: the notebooks rewind to the checkpoint one epoch after the chosen one, and here index i is the model after i epochs;
UnSLU-BENCH and ERASURE end each epoch on the forget pass, and here the retain pass is last; the notebooks let forget passes update the running
statistics, and here they use the batch's (`forget_batch_norm: batch`). `frozen` would start with no gradient at all, as student and teacher agree.
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
    """In each epoch a forget pass, as long as `forget_epochs` says, and a retain pass; one optimiser serves both."""

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
        """The teacher, and the original as the first model to rewind to."""
        self.teacher = frozen_copy(context.original)
        self.snapshots = [snapshot(context.original)] if self.rewind else []

    def passes(self) -> Sequence[Pass]:
        """Per epoch: forget (while e < forget_epochs), then retain."""
        plan = []
        for epoch in range(self.epochs):
            rate = self.learning_rate * self.decay ** sum(epoch >= done for done in self.decay_after)
            if epoch < self.forget_epochs:
                plan.append(Pass("forget", self.forget_batch_size, rate, self.forget_batch_norm, epoch=epoch))
            plan.append(Pass("retain", self.retain_batch_size, rate, self.retain_batch_norm, epoch=epoch))
        return plan

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Minus the distance to the original on forget; distance and cross-entropy on retain."""
        with torch.no_grad():
            original = self.teacher(*batch.inputs).logits
        logits = student(*batch.inputs).logits
        distance = self.temperature**2 * divergence(original, logits, self.temperature)
        if current.stream == "forget":
            return -self.mean(distance, batch)
        return self.mean(self.alpha * distance + self.gamma * cross_entropy(logits, batch.labels), batch)

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Keeps the model of each epoch; after the last one, rewinds."""
        if self.rewind and self.passes()[index].stream == "retain":
            self.snapshots.append(snapshot(student))
            if len(self.snapshots) > self.epochs:
                chosen = rewind(student, self.snapshots, evaluate)
                if chosen in (0, self.epochs):
                    what = "the original itself" if chosen == 0 else "the last one, so nothing was taken back"
                    logger.warning("SCRUB rewound to the model after %d of %d epochs: %s.", chosen, self.epochs, what)
        return False

    def get_extra_state(self) -> list[State]:
        """The models kept so far, so that a resumed run can rewind to them."""
        return self.snapshots

    def set_extra_state(self, state: list[State]) -> None:
        """What `get_extra_state` gave."""
        self.snapshots = state


def snapshot(model: nn.Module) -> State:
    """A copy of all weights and buffers, in main memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def rewind(student: nn.Module, snapshots: Sequence[State], evaluate: Evaluate) -> int:
    """Loads into the student the snapshot whose forget error is nearest to the student's validation error; returns its index.

    The student is the model of the last snapshot. Differences are rounded, so that equal ones count as tied; then the first is taken.
    Raises UserError when nothing is there to validate with.
    """
    reference = evaluate("validation")
    if math.isnan(reference):
        raise UserError(
            "SCRUB has no validation utterance like the request's to rewind by: raise dataset.validation, or set method.rewind=false."
        )
    gaps = []
    for state in snapshots:
        student.load_state_dict(state)
        gaps.append(round(abs(evaluate("forget") - reference), 9))
    chosen = gaps.index(min(gaps))
    student.load_state_dict(snapshots[chosen])
    return chosen
