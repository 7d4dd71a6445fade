"""Boundary expand: teach forget a class of its own that does not exist, then take that class away.

Chen, Gao, Liu, Peng & Wang, "Boundary unlearning: rapid forgetting of deep networks via shifting the decision boundary", CVPR 2023.

    z_{K+1}(x) = <w, e(x; theta)> + v
    min_{theta, w, v}  E_{D_f} -log softmax(z_1 ... z_K, z_{K+1})_{K+1};      theta_u = theta without (w, v)

| symbol  | argument                                                                                                          |
|---------|-------------------------------------------------------------------------------------------------------------------|
| e       | the embedding: what the classifier's head hears                                                                     |
| w, v    | a head like the classifier's with one output; random, drawn from the run's seed as a new linear layer's would be     |
| theta   | the student's parameters; `learning_rate` and `optimizer` are those of (w, v) too                                    |

(w, v) are the method's own parameters, so the student has K outputs throughout and nothing has to be cut off. Where the head measures cosines, so
does the extra output. Batch-norm is `frozen` by default: the public code trains it, on nothing but forget.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from speechforget import seeding
from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass
from speechforget.methods.common.losses import cross_entropy


class BoundaryExpand(Epochs):
    """Passes over forget with a label that only exists within them."""

    stream = "forget"
    needs = frozenset({"forget"})
    extra: nn.Module

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The extra class."""
        head = context.original.get_submodule("head")
        assert isinstance(head, nn.Linear)
        self.extra = one_output(head, context.seed)

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Cross-entropy with the extra class."""
        logits, embedding = student(*batch.inputs)
        labels = torch.full_like(batch.labels, logits.shape[1])
        return self.mean(cross_entropy(torch.cat([logits, self.extra(embedding)], dim=1), labels), batch)


def one_output(head: nn.Linear, seed: int) -> nn.Module:
    """A head of the same kind with one output and random weights, uniform up to 1 / sqrt(inputs) in size."""
    extra = copy.deepcopy(head)
    generator = torch.Generator().manual_seed(seeding.seed_from(seed, "extra class"))
    bound = 1 / math.sqrt(head.in_features)
    for name, parameter in head.named_parameters():
        drawn = (2 * torch.rand(1, *parameter.shape[1:], generator=generator, dtype=torch.float64) - 1) * bound
        setattr(extra, name, nn.Parameter(drawn.to(parameter)))
    extra.out_features = 1
    return extra
