"""Dampen weights that matter more to forget than to the whole training set, measured without labels.

LFSSD, label-free selective synaptic dampening: Foster, Schoepf & Brintrup, "Loss-free machine unlearning", Tiny Papers
at ICLR 2024.

    I_D = mean over batches of D of |gradient of the batch's mean of ||z||^2|
    I_f on forget, I on the whole training set
    theta_u = theta_o * max(min(lambda * I / I_f, 1), floor)  where I_f > alpha * I,  else theta_o

| symbol | meaning                               |
|--------|---------------------------------------|
| z      | the logits                            |
| alpha  | `alpha`; `auto`: see `ssd.py`         |
| lambda | `dampening`                           |
| floor  | `floor`, see `ssd.py`; 0 as published |
| batch  | `batch_size`, of both importances     |

As in `ssd.py`, running statistics stay unchanged and nothing is random. The importance on the whole training set is
stored for other requests.
"""

from __future__ import annotations

from torch import nn

from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import AUTO, absolute_output_gradients, adapted, check_alpha, dampen


class Lfssd(Method):
    """Edit the weights once, after one pass over the training set and one over forget."""

    def __init__(self, alpha: float | str, dampening: float, batch_size: int, floor: float = 0.0) -> None:
        super().__init__()
        check_alpha(alpha)
        self.alpha, self.dampening, self.batch_size, self.floor = alpha, dampening, batch_size, floor

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the whole edit."""
        whole = context.remember(absolute_output_gradients, "train", self.batch_size)
        forget = absolute_output_gradients(context, "forget", self.batch_size)
        alpha = adapted(context, forget, whole, self.batch_size) if self.alpha == AUTO else float(self.alpha)
        dampen(student, forget, whole, alpha, self.dampening, self.floor)
