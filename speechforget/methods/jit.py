"""Train the model so that its answers on forget change little when the input changes.

JiT: Foster, Fogarty, Schoepf, Dugue, Öztireli & Brintrup, "An information theoretic approach to machine unlearning",
2024 (arXiv 2402.01401; first version: "Zero-shot machine unlearning at scale via Lipschitz regularization").

    min_theta  E_{x in D_f} (1/N) sum_{j=1..N} || z(x; theta) - z(x + s xi_j; theta) || / || xi_j ||
    xi_j ~ normal(0, sigma^2)

| symbol | meaning                                                                                                   |
|--------|-----------------------------------------------------------------------------------------------------------|
| N      | `draws`                                                                                                   |
| sigma  | `sigma`, in units of s                                                                                    |
| s      | standard deviation of each feature over forget; padding gets no noise                                     |
| xi_j   | drawn from (seed, epoch, utterance, j); its norm (after a clamp) is in units of s, so the features' scale |
|        | has no effect                                                                                             |
| z(x)   | logits; the logits of x + s xi_j get no gradient                                                          |
| E      | `reduction`: `mean` over the batch, or `sum` as in the public code, where the step grows with the batch   |

The method needs no labels and no retain data.

Differences from the public code:
- It never clears its gradients, so each step uses the sum of all before it and is twice as long. Here gradients are
  cleared.
- It clamps the noised batch to the range of the clean batch (`clamp`), so an utterance's noise depends on the others in
  its batch. Here `clamp` is off.
- Batch-norm is `frozen` by default, because forget must not change the running statistics.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError, nearest
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass
from speechforget.methods.common.input_features import deviation, features_of, heard, length, logits_of, normal
from speechforget.methods.common.losses import step_size
from speechforget.seeding import seed_from


class JustInTime(Epochs):
    """Train on forget; each batch is processed once clean and `draws` times with noise."""

    stream = "forget"
    needs = frozenset({"forget"})
    deviation: Tensor

    def __init__(
        self,
        draws: int = 25,
        sigma: float = 0.5,
        reduction: Literal["mean", "sum"] = "mean",
        clamp: bool = False,
        **epochs: Any,
    ) -> None:
        super().__init__(**epochs)
        if reduction not in ("mean", "sum"):
            raise UserError(f"Unknown reduction '{reduction}': {nearest(reduction, ('mean', 'sum'))}")
        if draws < 1 or not sigma > 0:
            raise UserError(
                f"JiT needs at least one draw of noise and a sigma above 0, not draws={draws} and sigma={sigma}."
            )
        self.draws, self.sigma, self.reduction, self.clamp = draws, sigma, reduction, clamp

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Compute the standard deviation of each feature."""
        self.seed = context.seed
        self.register_buffer("deviation", deviation(context, "forget", self.batch_size))

    def noise(self, batch: Batch, features: Tensor, mask: Tensor, epoch: int, number: int) -> Tensor:
        """Draw xi_number / sigma: standard normal in the shape of features (batch, ...), 0 where the mask is 0."""
        return normal(batch.rows, features, mask, seed_from(self.seed, "jit", epoch, number))

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the mean ratio of the logits' change to the features' change."""
        features = features_of(student, batch)
        mask = heard(student, batch, features)
        clean = logits_of(student, batch, features)
        bounds = ends(features, mask) if self.clamp else None
        ratios = []
        for number in range(self.draws):
            noise = self.sigma * self.noise(batch, features, mask, current.epoch, number)
            if bounds is not None:
                kept = (features + self.deviation * noise).clamp(*bounds) - features
                noise = mask * torch.where(self.deviation > 0, kept / self.deviation, 0.0)
            with torch.no_grad():
                noised = logits_of(student, batch, features + self.deviation * noise)
            ratios.append(
                length(clean - noised)[:, 0] / length(noise).flatten().clamp(min=torch.finfo(noise.dtype).tiny)
            )
        result = self.mean(torch.stack(ratios).mean(dim=0), batch)
        return result * step_size(batch) if self.reduction == "sum" else result


def ends(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the smallest and the largest feature of a step's batch over all ranks, padding excluded."""
    low, high = features.masked_fill(mask == 0, torch.inf).amin(), features.masked_fill(mask == 0, -torch.inf).amax()
    together = torch.zeros(collectives.world(), 2, dtype=features.dtype, device=features.device)
    together[collectives.rank()] = torch.stack([low, high])
    together = collectives.total(together)
    return together[:, 0].amin(), together[:, 1].amax()
