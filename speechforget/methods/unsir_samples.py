"""Train noise to be unlike each forget utterance, damage the model with it, then repair it on retain.

Choi & Na, "Towards machine unlearning benchmarks: forgetting the personal identities in facial recognition systems",
2023 (arXiv 2311.02240), after UNSIR (see unsir.py); used by Koudounas, Savelli, Giobergia & Baralis, "Alexa, can you
forget me?", Interspeech 2025 (UnSLU-BENCH).

    noise    max_N  (1/K) || z(s N_i; theta) - z(x_i; theta) ||^2           for each utterance x_i of a forget batch
    impair   min_theta  E_i l(s N_i, y_i; theta) + E_{D_r} l(x, y; theta)   in each step, y_i as below
    repair   min_theta  E_{D_r} l(x, y; theta)                              with a new optimiser

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| theta  | the student at this step; for the noise in evaluation mode                                                |
| z, K   | logits, number of classes                                                                                 |
| N_i    | noise of the shape and length of x_i, at first standard normal; trained by `noise_steps` steps of Adam    |
|        | with `noise_learning_rate`                                                                                |
| s      | standard deviation of each feature over forget; padding stays unchanged                                   |
| y_i    | the label of the i-th retain utterance of the step                                                        |
| l      | cross-entropy in nats; its means over noise and over retain have equal weight                             |
| epoch  | impair: once through forget, with a retain batch in each step; repair: once through retain                |

The last batch of forget or retain can be smaller. As many noise samples are used as have a label.

Differences from public code (UnSLU-BENCH; UNSIR of Choi & Na):
- It skips a step whose two batches differ in size. Here all steps are taken.
- It clamps the noise to [0, 1], a range of images. Sound has no such range, and here the noise keeps its own.
- It repairs with SGD at the rate of AdamW, which moves weights hardly at all. Here one optimiser does both.
- It trains batch-norm on noise. Here impair passes keep it `frozen` by default, and repair passes train it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.batch import Batch, Pair, cut
from speechforget.distributed.dropout import drawn_for
from speechforget.errors import UserError
from speechforget.methods.base.method import BatchNorm, Context, Method, Pass
from speechforget.methods.common.input_features import deviation, features_of, heard, logits_of, normal
from speechforget.methods.common.losses import cross_entropy, step_size
from speechforget.seeding import seed_from


class UnsirSamples(Method):
    """Make impair passes over pairs of a forget and a retain batch, then repair passes over retain.

    repair_learning_rate: None: `learning_rate`.
    Raises UserError for numbers of steps or passes without sense.
    """

    scale: Tensor

    def __init__(
        self,
        learning_rate: float,
        batch_size: int,
        optimizer: Mapping[str, Any],
        repair_learning_rate: float | None = None,
        noise_steps: int = 5,
        noise_learning_rate: float = 0.01,
        impair_epochs: int = 1,
        repair_epochs: int = 1,
        impair_batch_norm: BatchNorm = "frozen",
        repair_batch_norm: BatchNorm = "train",
        clip: float | None = None,
    ) -> None:
        super().__init__(optimizer, clip)
        if impair_epochs < 1 or noise_steps < 0 or repair_epochs < 0:
            raise UserError(
                "impair_epochs must be at least 1, and noise_steps and repair_epochs at least 0, "
                f"not {impair_epochs}, {noise_steps} and {repair_epochs}."
            )
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.repair_learning_rate = learning_rate if repair_learning_rate is None else repair_learning_rate
        self.noise_steps, self.noise_learning_rate = noise_steps, noise_learning_rate
        self.impair_epochs, self.repair_epochs = impair_epochs, repair_epochs
        self.impair_batch_norm, self.repair_batch_norm = impair_batch_norm, repair_batch_norm

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Measure the deviation of each feature over forget."""
        self.seed = context.seed
        self.register_buffer("scale", deviation(context, "forget", self.batch_size))

    def passes(self) -> Sequence[Pass]:
        """Plan the impair passes, then the repair passes."""
        impair = (self.batch_size, self.learning_rate, self.impair_batch_norm)
        repair = (self.batch_size, self.repair_learning_rate, self.repair_batch_norm)
        return [
            *[Pass("both", *impair, length="forget", epoch=epoch) for epoch in range(self.impair_epochs)],
            *[
                Pass("retain", *repair, epoch=self.impair_epochs + epoch, fresh_optimizer=epoch == 0)
                for epoch in range(self.repair_epochs)
            ],
        ]

    def loss(self, student: nn.Module, batch: Batch | Pair, current: Pass) -> Tensor:
        """Compute cross-entropy on retain, and in impair passes also on the noise.

        With several ranks, the result is this rank's part.
        """
        if not isinstance(batch, Pair):
            return self._cross_entropy(student, batch)
        assert batch.forget is not None
        used = min(len(batch.forget.labels), len(batch.retain.labels))
        forget = cut(batch.forget, 0, used)
        noise = self.noise(student, forget, current.epoch)
        retain = self._cross_entropy(student, batch.retain)
        with drawn_for(forget, self.seed, "unsir_samples", current.epoch):
            values = cross_entropy(logits_of(student, forget, noise), batch.retain.labels[:used])
        return retain + values.sum() / min(step_size(batch.forget), step_size(batch.retain))

    def _cross_entropy(self, student: nn.Module, batch: Batch) -> Tensor:
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)

    def noise(self, student: nn.Module, forget: Batch, epoch: int) -> Tensor:
        """Train noise (batch, ...) to give other logits than the utterances of a batch.

        The noise of an utterance does not depend on the rest of its batch. No gradient remains in the student.
        """
        features = features_of(student, forget)
        mask = heard(student, forget, features)
        noise = normal(forget.rows, features, mask, seed_from(self.seed, "unsir_samples", epoch))
        scale = (self.scale * mask).to(features.dtype)
        if not len(noise):
            return noise
        noise.requires_grad_(True)
        optimizer = torch.optim.Adam([noise], lr=self.noise_learning_rate)
        with evaluating(student):
            with torch.no_grad():
                target = logits_of(student, forget, features)
            for _ in range(self.noise_steps):
                with torch.enable_grad():
                    far = (logits_of(student, forget, scale * noise) - target).square().mean(dim=1)
                    (noise.grad,) = torch.autograd.grad(-far.sum() / self.batch_size, noise)
                optimizer.step()
        return scale * noise.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
