"""Add noise to every weight: the less the weight matters to retain, the more noise.

Golatkar, Achille & Soatto, "Eternal sunshine of the spotless net: selective forgetting in deep networks", CVPR 2020.
The empirical variant follows Fan et al. 2024.

    expected:    F_i = mean over retain of sum_k p_k (d_i log p_k)^2
                 v_i = alpha * min(1 / (F_i + 1e-8), c),  averaged over a weight's second axis,
                 times b for vectors and the head
                 theta_u = theta_o + sqrt(v) * noise
    empirical:   F_i = mean over retain of (d_i log p_y + 1e-8)^2
                 theta_u = theta_o + min(sqrt(alpha / F), s) * noise

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| F      | `information`: `expected` over all K outputs (Golatkar et al.), or `empirical`, at the true label (Fan et |
|        | al. 2024)                                                                                                 |
| p, d_i | probabilities of the classes; derivative by weight i                                                      |
| alpha  | `alpha`: the amount of noise; its scale differs between the two variants                                  |
| c      | `limit`; for the head, `head_limit`                                                                       |
| b      | `boost`                                                                                                   |
| s      | `deviation_limit`, of the empirical variant                                                               |
| noise  | standard normal, drawn once per weight tensor from the run's seed                                         |

In the expected variant, the head's weights of a class that is removed whole have mean 0 instead of theta_o. Their
variance is v = `forgotten_variance`, before b. A single draw says little: compare several seeds.

Differences from the public code:
- F uses gradients of single utterances. The code of Fan et al. squares the mean gradient of 32, which is another
  quantity.
- The head is the classifier's own last layer. The public code takes every tensor whose first size is K as the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError, nearest
from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import PerUtterance, movable, pieces, squares, summed
from speechforget.methods.common.losses import cross_entropy
from speechforget.seeding import seed_from

TINY = 1e-8  # avoids division by F = 0
INFORMATION = ("expected", "empirical")


class Fisher(Method):
    """Edit the weights once, after one pass over retain.

    The expected variant computes a gradient for each output.
    """

    needs = frozenset({"retain"})

    def __init__(
        self,
        alpha: float,
        batch_size: int,
        information: str = "expected",
        limit: float = 1e3,
        head_limit: float = 1e2,
        boost: float = 10.0,
        forgotten_variance: float = 1e-4,
        deviation_limit: float = 1e-3,
    ) -> None:
        super().__init__()
        if information not in INFORMATION:
            raise UserError(f"There is no method.information={information}: {nearest(information, INFORMATION)}")
        self.alpha, self.batch_size, self.information = alpha, batch_size, information
        self.limit, self.head_limit, self.boost = limit, head_limit, boost
        self.forgotten_variance, self.deviation_limit = forgotten_variance, deviation_limit

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the whole edit; frozen weights stay unchanged."""
        names = {parameter: name for name, parameter in student.named_parameters()}
        head = set(student.get_submodule("head").parameters())
        parameters = movable(student)
        forgotten = list(context.forgotten)
        for parameter, information in zip(parameters, pieces(self.fisher(context), parameters), strict=True):
            noise = self.draw(names[parameter], parameter, context.seed)
            if self.information == "empirical":
                parameter.add_(noise * (self.alpha / information).sqrt().clamp(max=self.deviation_limit))
                continue
            if parameter in head:
                parameter[forgotten] = 0.0
            parameter.add_(noise * self.variance(information, parameter in head, forgotten).sqrt())

    def fisher(self, context: Context) -> Tensor:
        """Compute the diagonal of the Fisher information on retain, flat over the unfrozen weights."""
        alone = PerUtterance(context, movable(context.original), cross_entropy)
        zero = torch.zeros(alone.width + 1, dtype=torch.float64, device=alone.device)

        def expected(batch: Batch) -> Tensor:
            outputs = torch.arange(context.classes, device=batch.labels.device)[:, None].expand(-1, len(batch.labels))
            return summed(
                alone(batch, outputs, lambda gradients, logits, labels: squares(gradients, likelihood(logits, labels))),
                batch,
            )

        def empirical(batch: Batch) -> Tensor:  # log p is minus the cross-entropy
            return summed(
                alone(batch, batch.labels, lambda gradients, *_: squares([TINY - gradient for gradient in gradients])),
                batch,
            )

        total = context.total(
            "retain", self.batch_size, expected if self.information == "expected" else empirical, zero
        )
        return (total[:-1] / total[-1]).to(alone.kind)

    def variance(self, information: Tensor, of_head: bool, forgotten: list[int]) -> Tensor:
        """Compute the variance of the noise on one weight tensor.

        information: the tensor's part of the Fisher diagonal, in its shape. Rows of the head are classes.
        """
        value = self.alpha * (1 / (information + TINY)).clamp(max=self.head_limit if of_head else self.limit)
        if value.dim() > 1:
            value = value.mean(dim=1, keepdim=True).expand_as(value).clone()
        if of_head:
            value[forgotten] = self.forgotten_variance
        return value * self.boost if of_head or value.dim() == 1 else value

    def draw(self, name: str, like: Tensor, seed: int) -> Tensor:
        """Draw standard normal noise in the shape of the weights with this name."""
        generator = torch.Generator().manual_seed(seed_from(seed, "fisher", name))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute p(label) of each utterance, (batch,): logits (batch, classes), labels (batch,)."""
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
