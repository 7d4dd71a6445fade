"""Train the student to imitate a random network on forget and the original on retain.

Chundawat, Tarun, Mandal & Kankanhalli, "Can bad teaching induce forgetting? Unlearning in deep neural networks using an
incompetent teacher", AAAI 2023.

    min_theta  E over the mix of  KL_T(t(x) || p_theta(x)),   t = p_bad on D_f,  t = p_o on D_r'

| symbol | meaning                                                                                            |
|--------|----------------------------------------------------------------------------------------------------|
| p_o    | the original, frozen, in evaluation mode                                                           |
| p_bad  | `forget_teacher`: `random` = the same architecture with random weights (`context.fresh`), frozen,  |
|        | in evaluation mode; `uniform` = every class is equally likely, without a network                   |
| KL_T   | teacher first; softmaxes at `temperature`; summed over classes, mean over the batch; no factor T^2 |
| D_r'   | `retain_share` of retain (see `base/switches.py`), shuffled together with forget                   |

The method uses no labels. `forget_teacher: uniform` is the light form (`bad_teaching_light`) of Koudounas, Savelli,
Giobergia & Baralis, "Alexa, can you forget me?", Interspeech 2025 (UnSLU-BENCH).

Differences from the public code:
- It averages the divergence over classes too, which divides the step by K. Here it is summed, as in the formula.
- It does not set the mode of batch-norm. Here batch-norm is `frozen` by default: the mix contains far more of forget
  than the training set does, and its statistics must not enter the model. An unchanged student then has divergence zero
  on retain.
- UnSLU-BENCH's light form draws p_bad anew in each step: the softmax of standard normal logits. Its expectation is
  uniform, and the gradient is linear in p_bad. So `uniform` has the same expected gradient without the noise.
- UnSLU-BENCH's bad teacher is the pretrained encoder with a new head, and its code asks the original instead. Here all
  weights of p_bad are random.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.errors import UserError, nearest
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context, Pass, frozen_copy
from speechforget.methods.common.losses import divergence

ForgetTeacher = Literal["random", "uniform"]


class BadTeaching(Epochs):
    """Train on mixed passes in which each utterance has its own teacher."""

    stream = "mix"

    def __init__(self, temperature: float = 1.0, forget_teacher: ForgetTeacher = "random", **epochs: Any) -> None:
        super().__init__(**epochs)
        if forget_teacher not in get_args(ForgetTeacher):
            raise UserError(
                f"Unknown teacher '{forget_teacher}' of forget: {nearest(str(forget_teacher), get_args(ForgetTeacher))}"
            )
        self.temperature, self.forget_teacher = temperature, forget_teacher

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Make the teachers: the original and, unless forget's is uniform, a network with random weights."""
        self.teacher = frozen_copy(context.original)
        self.bad_teacher = frozen_copy(context.fresh()) if self.forget_teacher == "random" else None

    def loss(self, student: nn.Module, batch: Batch, current: Pass) -> Tensor:
        """Compute the divergence from each utterance's teacher."""
        with torch.no_grad():
            good = self.teacher(*batch.inputs).logits
            bad = torch.zeros_like(good) if self.bad_teacher is None else self.bad_teacher(*batch.inputs).logits
        target = torch.where(batch.forget.view(-1, *[1] * (good.dim() - 1)), bad, good)
        return self.mean(divergence(target, student(*batch.inputs).logits, self.temperature), batch)
