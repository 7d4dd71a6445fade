"""Take the linear part that an attribute explains off the embedding: the directions between the attribute's means.

After Eta-WavLM: Ruggiero, Testa, Van de Walle & Di Caro, "Eta-WavLM: efficient speaker identity removal in
self-supervised speech representations using a simple linear equation", Findings of ACL 2025.

    s = D a + b + eta,   least squares over the training recordings;   the paper keeps eta = s - D a - b
    s' = s - Q Q^T (s - E s),   Q = orthonormal basis of the columns of D

| symbol | meaning                                                                                             |
|--------|-----------------------------------------------------------------------------------------------------|
| s      | the original's embedding of a training recording; the paper: frames of WavLM                        |
| a      | the attribute's value, one-hot; the paper: principal components of a speaker encoder's embedding    |
| D, b   | regression of s on a; with one-hot a, its columns are the means of the values less their mean       |
| E, D   | weighted by `balanced`: see `common/erasure.py`                                                     |
| s'     | the embedding that leaves the unlearned model and that its head reads                               |

Differences from the paper: it knows a of each recording that it converts, from a speaker encoder. A delivered model
gets a recording alone, so the columns of D are projected off for every a. The projection is orthogonal, where `leace`
changes the embedding least; both leave no linear information about a in the training recordings.
"""

from __future__ import annotations

import torch
from torch import nn

from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.erasure import attribute_of, moments_of, orthogonal_eraser, weights_of


class EtaRemoval(Method):
    """Insert the projection. balanced: whether weights make label and attribute independent. batch_size: of reading."""

    def __init__(self, balanced: bool, batch_size: int) -> None:
        super().__init__()
        self.balanced, self.batch_size = balanced, batch_size

    @torch.no_grad()
    def prepare(self, student: nn.Module, context: Context) -> None:
        """Fit the projection on the original and insert it into the student."""
        removed = attribute_of(context, "eta_removal")
        weights = weights_of(context, removed, self.balanced, self.batch_size)
        context.erase(student, *orthogonal_eraser(moments_of(context, removed, weights, self.batch_size)))
