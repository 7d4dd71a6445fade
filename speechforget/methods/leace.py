"""Erase an attribute from the embedding in closed form, by the least change that no linear probe survives.

LEACE: Belrose, Schneider-Joseph, Ravfogel, Cotterell, Raff & Biderman, "LEACE: perfect linear concept erasure in closed
form", NeurIPS 2023 (arXiv 2306.03819).

    x' = x - W+ P W (x - E x),   W = cov(x, x)^(-1/2),   P = projection onto the columns of W cov(x, z)

| symbol | meaning                                                                                             |
|--------|-----------------------------------------------------------------------------------------------------|
| x      | the original's embedding of a training recording, without augmentation                              |
| z      | the attribute's value, one-hot; recordings without a known value are left out                       |
| E, cov | weighted by `balanced`: see `common/erasure.py`                                                     |
| x'     | the embedding that leaves the unlearned model and that its head reads                               |

The map becomes a layer `eraser` of the delivered model. No other weight changes: earlier layers still carry the
attribute. After the map, cov(x', z) = 0 over the training recordings, so that no linear probe of them beats a constant.
Other recordings, and probes that are not linear, can.

Differences from the package concept-erasure: weights, which it lacks; moments in float64 in two passes instead of
running ones; no shrinkage of the covariance.
"""

from __future__ import annotations

import torch
from torch import nn

from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.erasure import attribute_of, least_squares_eraser, moments_of, weights_of


class Leace(Method):
    """Insert the eraser. balanced: whether weights make label and attribute independent. batch_size: of reading."""

    def __init__(self, balanced: bool, batch_size: int) -> None:
        super().__init__()
        self.balanced, self.batch_size = balanced, batch_size

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Fit the eraser on the original and insert it into the student."""
        removed = attribute_of(context, "leace")
        weights = weights_of(context, removed, self.balanced, self.batch_size)
        context.erase(student, *least_squares_eraser(moments_of(context, removed, weights, self.batch_size)))
