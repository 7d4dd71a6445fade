"""Runs a method, whoever turns the crank: the plain loop below, or Lightning calling the same functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.batch import Batch, Pair, is_whole
from speechforget.distributed import collectives
from speechforget.methods.base.method import BatchNorm, Evaluate, Method, Pass
from speechforget.optimizers import make_optimizer

logger = logging.getLogger(__name__)


def set_batch_norm(model: nn.Module, mode: BatchNorm, untrained: BatchNorm | None = "frozen") -> None:
    """Puts the model in training mode with batch-norm `frozen`, on `batch` statistics only, or in `train`.

    untrained: the mode of layers whose own weights are all frozen; None for the same.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            weights = list(module.parameters())
            fixed = bool(weights) and not any(weight.requires_grad for weight in weights)
            chosen = untrained if fixed and untrained is not None else mode
            module.train(chosen != "frozen")
            module.track_running_stats = chosen != "batch"


def end_batch_norm(model: nn.Module) -> None:
    """Evaluation mode, with running statistics in use again."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = True
    model.eval()


class Driver:
    """One run of a prepared method on a student: what happens around each pass and each step.

    The caller goes through `plan`, and in each pass through its batches: start_pass, then for each batch loss, backward, after_backward,
    optimiser step, after_step; then end_pass, which is True when the method wants to stop.
    """

    def __init__(
        self, method: Method, student: nn.Module, evaluate: Evaluate, steps_of: Callable[[Pass, int], int] | None = None
    ) -> None:
        """steps_of: (pass, index) -> its steps, where they are known in advance; needed for `learning_rate_steps` alone."""
        self.method, self.student, self.evaluate = method, student, evaluate
        self.plan: Sequence[Pass] = tuple(method.passes())
        self.steps = sum(steps_of(current, index) for index, current in enumerate(self.plan)) if steps_of else None
        if method.learning_rate_steps is not None and self.steps is None:
            raise ValueError("learning_rate_steps has no meaning where the number of steps is not known: give steps_of")
        self.factor = (
            method.learning_rate_steps / self.steps if method.learning_rate_steps is not None and self.steps else 1.0
        )
        self._before: list[Tensor] = []
        self._step = 0

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def _parameters(self) -> list[nn.Parameter]:
        """What is trained: the student's parameters, and the method's own."""
        return [*self.student.parameters(), *self.method.parameters()]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The one optimiser of the whole run."""
        return make_optimizer(self._parameters(), self.method.optimizer, self.plan[0].rate(0))

    def start_pass(self, index: int, optimizer: torch.optim.Optimizer) -> None:
        """Sets batch-norm, and the optimiser where it starts anew."""
        current = self.plan[index]
        set_batch_norm(self.student, current.batch_norm, self.method.frozen_batch_norm)
        if current.fresh_optimizer:
            optimizer.state.clear()
        self._step = 0
        self._before = [parameter.detach().clone() for parameter in self._trainable()]

    def loss(self, batch: Batch | Pair, index: int) -> Tensor:
        """The method's loss for one batch of pass `index`; of several ranks this one's part, which sum to the loss."""
        return collectives.part_of_loss(
            is_whole(batch), lambda: self.method.loss(self.student, batch, self.plan[index])
        )

    def after_backward(self, index: int, optimizer: torch.optim.Optimizer) -> None:
        """The method's work on the gradients, clipping, and the step's learning rate."""
        for group in optimizer.param_groups:
            group["lr"] = self.plan[index].rate(self._step) * self.factor
        self._step += 1
        self.method.after_backward(self.student)
        allowed = self.method.norm_allowed()
        if allowed is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters(), allowed)

    def after_step(self) -> None:
        """The method's work on the weights."""
        with torch.no_grad():
            self.method.after_step(self.student)

    def end_pass(self, index: int) -> bool:
        """Ends pass `index`; True when the method wants no further one. Warns when the pass changed no weight."""
        pairs = zip(self._before, self._trainable(), strict=True)
        if all(torch.equal(before, after) for before, after in pairs):
            logger.warning("Pass %d over '%s' changed no weight.", index, self.plan[index].stream)
        self._before = []
        collectives.check_replicas(self.student, f"after pass {index}")
        end_batch_norm(self.student)
        with torch.no_grad():
            return self.method.after_pass(self.student, index, self.evaluate)

    def run(self, streams: Callable[[Pass, int], Iterable[Batch | Pair]]) -> None:
        """The plain loop; `streams(pass, index)` gives the batches of a pass."""
        if not self.plan:
            return
        optimizer = self.make_optimizer()
        for index, current in enumerate(self.plan):
            self.start_pass(index, optimizer)
            for batch in streams(current, index):
                optimizer.zero_grad()
                self.loss(batch, index).backward()
                collectives.sum_gradients(self.student, self.method)
                self.after_backward(index, optimizer)
                optimizer.step()
                self.after_step()
            if self.end_pass(index):
                break
        end_batch_norm(self.student)
