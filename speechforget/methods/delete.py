"""DELETE: on forget imitate the original, but for the class that must go.

Zhou, Zheng, Mo, Lu, Lin & Zheng, "Decoupled distillation to erase: a general unlearning method for any class-centric tasks", CVPR 2025.

    min_theta  E_{D_f} KL(q(x) || p_theta(x)),   q = softmax of the original's logits, those of the masked classes at minus infinity

| symbol         | argument                                                                                             |
|----------------|------------------------------------------------------------------------------------------------------|
| masked classes | the utterance's own, and in a class request all that the request removes                              |
| KL             | target first, summed over classes, in nats, mean over the batch                                       |
| p_theta        | the student's softmax; `batch_norm` is the mode of its batch-norm layers                              |

No retain data is needed: what the original thinks of the other classes stands for it. The public code masks the own class alone, which is the same
where one class is removed; of two, each would be taught as the other. Its option to hold batch-norm still knows only two-dimensional layers, and it
trains them otherwise; here they are `frozen` by default, as nothing but forget is heard.
In a sample request the target gives the true class nothing, while an oracle is right on most such utterances: expect it to forget too much.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass, frozen_copy
from speechforget.methods.common.losses import barred, divergence


class Delete(Epochs):
    """Passes over forget with the original's masked answers as targets."""

    stream = "forget"
    needs = frozenset({"forget"})

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The teacher, and which classes the request removes."""
        self.teacher, self.forgotten = frozen_copy(context.original), context.forgotten

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Divergence from the original without the masked classes."""
        with torch.no_grad():
            original = self.teacher(*batch.inputs).logits
        # The lowest finite number instead of minus infinity, of which the divergence would take 0 times infinity.
        target = original.masked_fill(
            barred(batch.labels, original.shape[1], self.forgotten), torch.finfo(original.dtype).min
        )
        return self.mean(divergence(target, student(*batch.inputs).logits), batch)
