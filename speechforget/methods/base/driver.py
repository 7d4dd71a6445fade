"""Run a method: in the plain loop below, or in Lightning, which calls the same functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.batch import Batch, Pair, is_whole
from speechforget.distributed import collectives
from speechforget.methods.base.method import BatchNorm, Evaluate, Method, Pass
from speechforget.methods.base.two_optimizers import TwoOptimizers, clear
from speechforget.optimizers import make_optimizer

logger = logging.getLogger(__name__)


def set_batch_norm(model: nn.Module, mode: BatchNorm, untrained: BatchNorm | None = "frozen") -> None:
    """Put the model in training mode and set the mode of its batch-norm layers: `frozen`, `batch` or `train`.

    untrained: the mode of layers with only frozen weights; None for the same mode.
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
    """Put the model in evaluation mode and let batch-norm use its running statistics again."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = True
    model.eval()


class Driver:
    """Run a prepared method on a student: do the work around each pass and each step.

    The caller iterates over `plan`, and in each pass over its batches. It calls start_pass; then for each batch loss,
    backward, after_backward, optimiser step and after_step; then end_pass. end_pass returns True when the method wants
    to stop.
    """

    def __init__(
        self, method: Method, student: nn.Module, evaluate: Evaluate, steps_of: Callable[[Pass, int], int] | None = None
    ) -> None:
        """Build the plan of passes.

        steps_of: (pass, index) -> number of its steps, if known in advance. Only `learning_rate_steps` needs it.
        """
        self.method, self.student, self.evaluate = method, student, evaluate
        self.plan: Sequence[Pass] = tuple(method.passes())
        self.steps = sum(steps_of(current, index) for index, current in enumerate(self.plan)) if steps_of else None
        if method.learning_rate_steps is not None and self.steps is None:
            raise ValueError("learning_rate_steps needs the number of steps of the run: pass steps_of")
        self.factor = (
            method.learning_rate_steps / self.steps if method.learning_rate_steps is not None and self.steps else 1.0
        )
        self._before: list[Tensor] = []
        self._step = 0

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def _parameters(self) -> list[nn.Parameter]:
        """List what is trained: the student's parameters and the method's own."""
        return [*self.student.parameters(), *self.method.parameters()]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimiser of the whole run, or one for forget steps and one for retain steps."""
        make = partial(make_optimizer, options=self.method.optimizer, learning_rate=self.plan[0].rate(0))
        if self.method.optimizers == "one":
            return make(self._parameters())
        return TwoOptimizers(make(self._parameters()), make(self._parameters()))

    def start_pass(self, index: int, optimizer: torch.optim.Optimizer) -> None:
        """Set batch-norm, and clear the optimiser's state if the pass asks for it."""
        current = self.plan[index]
        set_batch_norm(self.student, current.batch_norm, self.method.frozen_batch_norm)
        if current.fresh_optimizer:
            clear(optimizer, current)
        self._step = 0
        self._before = [parameter.detach().clone() for parameter in self._trainable()]

    def loss(self, batch: Batch | Pair, index: int) -> Tensor:
        """Compute the method's loss for one batch of pass `index`.

        If several ranks share the batch, the result is this rank's part. The parts sum to the loss.
        """
        return collectives.part_of_loss(
            is_whole(batch), lambda: self.method.loss(self.student, batch, self.plan[index])
        )

    def after_backward(self, index: int, optimizer: torch.optim.Optimizer) -> None:
        """Run the method's hook on the gradients, set the step's optimiser and learning rate, and clip the gradient."""
        if isinstance(optimizer, TwoOptimizers):
            optimizer.use(self.plan[index].half(self._step))
        for group in optimizer.param_groups:
            group["lr"] = self.plan[index].rate(self._step) * self.factor
        self._step += 1
        self.method.after_backward(self.student)
        allowed = self.method.norm_allowed()
        if allowed is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters(), allowed)

    def after_step(self) -> None:
        """Run the method's hook on the weights."""
        with torch.no_grad():
            self.method.after_step(self.student)

    def end_pass(self, index: int) -> bool:
        """End pass `index` and return True if the method wants no further pass.

        Warns if the pass changed no weight.
        """
        pairs = zip(self._before, self._trainable(), strict=True)
        if all(torch.equal(before, after) for before, after in pairs):
            logger.warning(
                "Pass %d over '%s' changed no weight: raise method.learning_rate, or set method.trainable=all.",
                index,
                self.plan[index].stream,
            )
        self._before = []
        collectives.check_replicas(self.student, f"after pass {index}")
        end_batch_norm(self.student)
        with torch.no_grad():
            return self.method.after_pass(self.student, index, self.evaluate)

    def run(self, streams: Callable[[Pass, int], Iterable[Batch | Pair]]) -> None:
        """Run all passes in a plain loop; `streams(pass, index)` gives the batches of a pass."""
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
