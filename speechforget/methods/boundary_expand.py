"""Train forget utterances to fall into an extra class, then remove that class.

Chen, Gao, Liu, Peng & Wang, "Boundary unlearning: rapid forgetting of deep networks via shifting the decision
boundary", CVPR 2023.

    z_{K+1}(x) = <w, e(x; theta)> + v
    min_{theta, w, v}  E_{D_f} -log softmax(z_1 ... z_K, z_{K+1})_{K+1};      theta_u = theta without (w, v)

| symbol | meaning                                                                                                     |
|--------|-------------------------------------------------------------------------------------------------------------|
| e      | the embedding: the input of the classifier's head                                                           |
| w, v   | a head of the same kind with one output; its random start is drawn from the run's seed, as for a new linear |
|        | layer                                                                                                       |
| theta  | the student's parameters; (w, v) have the same `learning_rate` and `optimizer`                              |

(w, v) are the method's own parameters. So the student always has K outputs, and nothing must be removed at the end. If
the head measures cosines, so does the extra output.

Difference: the public code trains batch-norm, on forget only. Here it is `frozen` by default.
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
    """Train on forget with the label of a class that exists only during these passes."""

    stream = "forget"
    needs = frozenset({"forget"})
    extra: nn.Module

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the extra class."""
        head = context.original.get_submodule("head")
        assert isinstance(head, nn.Linear)
        self.extra = one_output(head, context.seed)

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute cross-entropy with the extra class as the label."""
        logits, embedding = student(*batch.inputs)
        labels = torch.full_like(batch.labels, logits.shape[1])
        return self.mean(cross_entropy(torch.cat([logits, self.extra(embedding)], dim=1), labels), batch)


def one_output(head: nn.Linear, seed: int) -> nn.Module:
    """Make a head of the same kind with one output and random weights, uniform within +-1 / sqrt(inputs)."""
    extra = copy.deepcopy(head)
    generator = torch.Generator().manual_seed(seeding.seed_from(seed, "extra class"))
    bound = 1 / math.sqrt(head.in_features)
    for name, parameter in head.named_parameters():
        drawn = (2 * torch.rand(1, *parameter.shape[1:], generator=generator, dtype=torch.float64) - 1) * bound
        setattr(extra, name, nn.Parameter(drawn.to(parameter)))
    extra.out_features = 1
    return extra
