"""Move the weights to where training without forget would have led, to first order.

Izzo, Smart, Chaudhuri & Zou, "Approximate data deletion from machine learning models", AISTATS 2021. Inverse Hessian:
Singh & Alistarh, "WoodFisher: efficient second-order approximation for neural network compression", NeurIPS 2020.

    v = w * (mean gradient on forget - mean gradient on retain),   theta_u = theta_o + alpha * H^-1 v
    H = 1 + (1 / N) * sum over m retain utterances of g g',   g the gradient of one utterance's cross-entropy

| symbol | meaning                                                                                                |
|--------|--------------------------------------------------------------------------------------------------------|
| alpha  | `alpha`                                                                                                |
| m      | `samples`: number of retain utterances, drawn once from the run's seed; all of retain if it has fewer  |
| N      | `damping`                                                                                              |
| w      | `share`: the share of the training set that forget is assumed to have; if null, its true share n_f / n |

With w = n_f / n as in the papers, forgetting a small class hardly starts. A fixed w gives alpha the same meaning for
all requests.

The inverse is exact. Let G (m, parameters) have the rows g. Then H^-1 v = v - G' (N + G G')^-1 G v, so only m equations
must be solved. The result equals that of the rank-one recursion over the same utterances.

Difference: the public code never gives its recursion a new gradient, so it computes no inverse Hessian.

Every process stores the whole of G, in the weights' precision. m gradients of a large model do not fit into memory:
`memory` is the limit in GB.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import PerUtterance, batch_gradient, counted, flat, movable, pieces
from speechforget.methods.common.losses import cross_entropy
from speechforget.seeding import order

BLOCK = 2**16  # columns of G that are converted to float64 at once


class Influence(Method):
    """Edit the weights once, after one pass over the training set and m per-utterance gradients."""

    def __init__(
        self, alpha: float, samples: int, damping: float, batch_size: int, memory: float, share: float | None = None
    ) -> None:
        super().__init__()
        if share is not None and not 0 < share <= 1:
            raise UserError(f"method.share must be above 0 and at most 1, or null, not {share}.")
        if samples < 1 or damping <= 0:
            raise UserError(
                f"method.samples must be at least 1 and method.damping above 0, not {samples} and {damping}."
            )
        self.alpha, self.samples, self.damping = alpha, samples, damping
        self.batch_size, self.memory, self.share = batch_size, memory, share

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the whole edit; frozen weights stay unchanged."""
        parameters = movable(student)
        for parameter, step in zip(parameters, pieces(self.step(context), parameters), strict=True):
            parameter.add_(step)

    def step(self, context: Context) -> Tensor:
        """Compute alpha * H^-1 v, flat over the unfrozen weights.

        Raises UserError if G would be larger than `memory`.
        """
        model = copy.deepcopy(context.original).eval()
        weights = movable(model)
        alone = PerUtterance(context, movable(context.original), cross_entropy)
        indices = self._indices(context)
        self._check_memory(len(indices), alone)
        held = torch.zeros(len(indices), alone.width, dtype=alone.kind, device=alone.device)
        zero = torch.zeros(alone.width + 1, dtype=torch.float64, device=alone.device)

        def summed(batch: Batch) -> Tensor:
            size = len(batch.labels)
            return counted(size * batch_gradient(model, weights, batch, cross_entropy).double(), size)

        def held_and_summed(batch: Batch) -> Tensor:
            here = [number for number, row in enumerate(batch.rows.tolist()) if row in indices]
            if here:
                part = some(batch, here)
                found = alone(part, part.labels, lambda gradients, *_: flat(gradients))
                held[[indices[row] for row in part.rows.tolist()]] = torch.cat(list(found))
            return summed(batch)

        forget = context.total("forget", self.batch_size, summed, zero)
        retain = context.total("retain", self.batch_size, held_and_summed, zero)
        share = self.share or forget[-1] / (forget[-1] + retain[-1])
        difference = forget[:-1] / forget[-1] - retain[:-1] / retain[-1]
        return self.alpha * solve(collectives.total(held), share * difference, self.damping).to(alone.kind)

    def _indices(self, context: Context) -> dict[int, int]:
        """Map the utterance numbers to rows of G."""
        rows = np.concatenate([batch.rows.cpu().numpy() for batch in context.batches("retain", self.batch_size)])
        chosen = np.sort(order(rows, context.seed, "influence")[: self.samples])
        return {row: index for index, row in enumerate(chosen.tolist())}

    def _check_memory(self, count: int, alone: PerUtterance) -> None:
        size = count * alone.width * alone.kind.itemsize / 1e9
        if size > self.memory:
            raise UserError(
                f"{count} gradients of {alone.width} weights are {size:.1f} GB, "
                f"more than method.memory={self.memory:g}: raise it, "
                f"or set method.samples to {int(count * self.memory / size)} or fewer."
            )


def some(batch: Batch, numbers: list[int]) -> Batch:
    """Select these utterances of a batch."""
    inputs = tuple(tensor[numbers] for tensor in batch.inputs)
    return Batch(inputs, batch.labels[numbers], batch.rows[numbers], batch.forget[numbers])


def solve(rows: Tensor, vector: Tensor, damping: float) -> Tensor:
    """Compute (1 + rows' rows / damping)^-1 vector in float64: rows (m, parameters), vector (parameters,)."""
    gram = damping * torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    product = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for block, part in zip(rows.split(BLOCK, dim=1), vector.double().split(BLOCK), strict=True):
        wide = block.double()
        gram += wide @ wide.T
        product += wide @ part
    weights = torch.cholesky_solve(product[:, None], torch.linalg.cholesky(gram))[:, 0]
    away = torch.cat([block.double().T @ weights for block in rows.split(BLOCK, dim=1)])
    return vector.double() - away
