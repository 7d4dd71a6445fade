"""Train the student on forget to imitate the original with the classes to forget masked out.

DELETE: Zhou, Zheng, Mo, Lu, Lin & Zheng, "Decoupled distillation to erase: a general unlearning method for any
class-centric tasks", CVPR 2025.

    min_theta  E_{D_f} KL(q(x) || p_theta(x)),   q = softmax of the original's logits, with -infinity for masked classes

| symbol         | meaning                                                                             |
|----------------|-------------------------------------------------------------------------------------|
| masked classes | the utterance's own class; in a class request, all classes that the request removes |
| KL             | target first, summed over classes, in nats, mean over the batch                     |
| p_theta        | the student's softmax; `batch_norm` is the mode of its batch-norm layers            |

The method needs no retain data: the original's answers on the other classes replace it. In a sample request, the target
gives the true class no probability, although an oracle is right on most such utterances. Expect too much forgetting
there.

Differences from the public code:
- It masks the own class only. That is the same if the request removes one class. If it removes two, each would be
  taught as the other.
- Its option to freeze batch-norm works only for two-dimensional layers, and otherwise it trains batch-norm. Here
  batch-norm is `frozen` by default, because the passes use only forget.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass, frozen_copy
from speechforget.methods.common.losses import barred, divergence


class Delete(Epochs):
    """Train on forget with the original's masked answers as targets."""

    stream = "forget"
    needs = frozenset({"forget"})

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teacher and store the classes that the request removes."""
        self.teacher, self.forgotten = frozen_copy(context.original), context.forgotten

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the divergence from the original without the masked classes."""
        with torch.no_grad():
            original = self.teacher(*batch.inputs).logits
        # The lowest finite number: with -infinity, the divergence would compute 0 times infinity.
        target = original.masked_fill(
            barred(batch.labels, original.shape[1], self.forgotten), torch.finfo(original.dtype).min
        )
        return self.mean(divergence(target, student(*batch.inputs).logits), batch)
