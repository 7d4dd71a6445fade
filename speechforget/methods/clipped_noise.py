"""Fine-tune on retain with clipped gradients and noise in each step: certified unlearning with stated (eps, delta).

Koloskova, Allouah, Jha, Guerraoui & Koyejo, "Certified unlearning for neural networks", ICML 2025 (arXiv 2506.06985),
their variant that clips gradients.

    theta_0 = clip(theta_o, C_0)
    theta_{t+1} = theta_t - eta (clip(g_t, C_1) + lambda theta_t) + xi_t,   xi_t ~ N(0, sigma^2 I),   t < T

| symbol    | meaning                                                                                                |
|-----------|--------------------------------------------------------------------------------------------------------|
| clip(v,C) | v min(1, C / norm(v)), over all weights together                                                       |
| g_t       | gradient of the cross-entropy on a batch of retain; batch-norm uses the statistics of the batch        |
| C_0, C_1  | `weight_norm`, `gradient_norm`                                                                         |
| eta       | `learning_rate`                                                                                        |
| lambda    | `decay`                                                                                                |
| T         | steps of `epochs` passes over retain                                                                   |
| sigma     | follows from `epsilon` and `delta`; see `noise_for`                                                    |

Certified: the released weights are (eps, delta)-indistinguishable from those that the same steps make of any model that
was trained without the request. Both start within a distance 2 C_0. A step maps a distance z to at most c z + b, with
c = 1 - eta lambda and b = 2 eta C_1, whatever the loss is. By shift reduction (Feldman, Mironov, Talwar & Thakurta,
"Privacy amplification by iteration", FOCS 2018), a part a_t of the distance may be absorbed by the noise of step t at a
Renyi divergence of alpha a_t^2 / (2 sigma^2). The cheapest parts are a_t ~ c^(T-t), which give

    D_alpha <= alpha rho,   rho = S^2 / (2 sigma^2 sum_{t<T} c^(2t)),   S = 2 C_0 c^T + b sum_{t<T} c^t
    eps = rho + 2 sqrt(rho ln(1/delta))

The bound is reached by two models that start opposite and whose gradients stay opposite. What follows the noisy steps
reads retain and their weights only, so it costs nothing: running statistics of batch-norm are measured anew on retain,
and `repair_epochs` passes without noise win back what the noise took.

The certificate is about weights, for whoever neither knows nor guesses the run's `seed`, from which the noise is drawn:
choose a large random one, and keep it secret (a record holds it). It is not about pre-training on the request, or
copies. Read the table for the price: at useful eps, little more than the architecture is left of the original.

Differences from the paper: it bounds sigma by simpler terms, which are larger; here the noise is the least that the
argument allows. Weights must all be trained, and no switch may change what a step is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.method import BatchNorm, Context, Evaluate, Method, Pass
from speechforget.methods.common.losses import cross_entropy
from speechforget.seeding import seed_from


class ClippedNoise(Method):
    """Make noisy passes over retain, measure running statistics, and repair without noise."""

    needs = frozenset({"retain"})

    def __init__(
        self,
        epsilon: float,
        delta: float,
        weight_norm: float,
        gradient_norm: float,
        decay: float,
        learning_rate: float,
        epochs: int,
        repair_learning_rate: float,
        repair_epochs: int,
        batch_size: int,
        repair_batch_norm: BatchNorm = "train",
    ) -> None:
        super().__init__({"name": "sgd", "weight_decay": 0.0})
        if min(epsilon, weight_norm, gradient_norm, learning_rate) <= 0 or not 0 < delta < 1 or epochs < 1:
            raise UserError(
                "epsilon, weight_norm, gradient_norm and learning_rate must be above 0, delta between 0 and 1, and "
                "epochs at least 1."
            )
        if not 0 <= learning_rate * decay < 1:
            raise UserError(f"learning_rate times decay must be at least 0 and below 1, not {learning_rate * decay}.")
        self.epsilon, self.delta, self.weight_norm, self.gradient_norm = epsilon, delta, weight_norm, gradient_norm
        self.decay, self.learning_rate, self.epochs, self.batch_size = decay, learning_rate, epochs, batch_size
        self.repair_learning_rate, self.repair_epochs = repair_learning_rate, repair_epochs
        self.repair_batch_norm = repair_batch_norm
        self.steps = 0
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Clip the weights, and compute the noise of the steps to come.

        Raises NotApplicable where something would make other steps than the bound is about.
        """
        switched = self.trainable != "all" or self.retain_share != 1 or self.learning_rate_steps or self.curriculum
        if switched or not all(weight.requires_grad for weight in student.parameters()):
            raise NotApplicable(
                "The bound of clipped_noise is about all weights and plain steps on the whole of retain: leave the "
                "switches of method at their defaults, and train all weights of the original."
            )
        self.seed, self.batches = context.seed, partial(context.batches, "retain", self.batch_size)
        self.steps = self.epochs * math.ceil(context.count("retain", self.batch_size) / self.batch_size)
        bounds = self.weight_norm, self.gradient_norm, self.decay, self.learning_rate, self.steps
        self.sigma = noise_for(self.epsilon, self.delta, *bounds)
        self.certificate = {"epsilon": self.epsilon, "delta": self.delta, "sigma": self.sigma, "steps": self.steps}
        with torch.no_grad():
            clip(list(student.parameters()), self.weight_norm)

    def passes(self) -> Sequence[Pass]:
        """Make the noisy passes, then those that repair."""
        noisy = [
            Pass("retain", self.batch_size, self.learning_rate, "batch", epoch=each) for each in range(self.epochs)
        ]
        rate, mode = self.repair_learning_rate, self.repair_batch_norm
        return noisy + [Pass("retain", self.batch_size, rate, mode, epoch=each) for each in range(self.repair_epochs)]

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the true labels."""
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)

    def after_backward(self, student: nn.Module) -> None:
        """Clip the gradient of a noisy step, and add the decay."""
        if not self.noisy:
            return
        with torch.no_grad():
            clip([weight.grad for weight in student.parameters() if weight.grad is not None], self.gradient_norm)
            for weight in student.parameters():  # the bound needs the decay of all, of those without a gradient too
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = gradient + self.decay * weight

    @property
    def noisy(self) -> bool:
        """Return whether the current step is one that the bound is about."""
        return int(self.get_buffer("step")) < self.steps

    def after_step(self, student: nn.Module) -> None:
        """Add the noise of a noisy step; draws are on the CPU, the same for every device."""
        if not self.noisy:
            return
        step = self.get_buffer("step")
        generator = torch.Generator().manual_seed(seed_from(self.seed, "certified noise", int(step)))
        for weight in student.parameters():
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(self.sigma * drawn.to(weight))
        step += 1

    def after_pass(self, student: nn.Module, index: int, evaluate: Evaluate) -> bool:
        """Measure the running statistics anew after the last noisy pass: they remember the original's data."""
        if index == self.epochs - 1:
            measure_statistics(student, self.batches)
        return False


def noise_for(
    epsilon: float, delta: float, weight_norm: float, gradient_norm: float, decay: float, rate: float, steps: int
) -> float:
    """Compute the standard deviation of the noise per weight and step that gives (epsilon, delta)."""
    log = math.log(1 / delta)
    rho = (math.sqrt(log + epsilon) - math.sqrt(log)) ** 2
    return distance_for(weight_norm, gradient_norm, decay, rate, steps) / math.sqrt(2 * rho)


def distance_for(weight_norm: float, gradient_norm: float, decay: float, rate: float, steps: int) -> float:
    """Compute S / sqrt(sum_t c^(2t)): how far apart one noisy step would have to begin to be as hard to hide."""
    shrink = 1 - rate * decay
    powers = [shrink**step for step in range(steps)]
    apart = 2 * weight_norm * shrink**steps + 2 * rate * gradient_norm * math.fsum(powers)
    return apart / math.sqrt(math.fsum(power**2 for power in powers))


def clip(tensors: Sequence[Tensor], largest: float) -> None:
    """Scale tensors in place so that their common Euclidean norm is at most `largest`."""
    norm = math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))
    if norm > largest:
        for tensor in tensors:
            tensor.mul_(largest / norm)


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
    """Replace the running statistics of batch-norm by the means over the batches; leave the model in its mode."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return
    kept = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch then keeps the plain mean over batches
        layer.train()
    for batch in batches():
        if len(batch.labels) > 1:  # one utterance may have no variance
            with collectives.alone():  # every rank has the whole batch
                model(*batch.inputs)
    for layer, (momentum, mode) in zip(layers, kept, strict=True):
        layer.momentum = momentum
        layer.train(mode)
