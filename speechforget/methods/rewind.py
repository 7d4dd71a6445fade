"""Go back some epochs in the original's training, and train on retain from there: a dial from original to oracle.

Rewind-to-delete: Mu & Klabjan, "Rewind-to-delete: certified machine unlearning for nonconvex functions", NeurIPS 2025
(arXiv 2409.09778).

    theta_u = A^K(theta_{T-K}; D_r),   theta_t = A^t(theta_0; D_f and D_r)

| symbol      | meaning                                                                                              |
|-------------|------------------------------------------------------------------------------------------------------|
| A^k(., D)   | k epochs of the original's own recipe on the data D: its optimiser, schedule, augmentation, batches  |
| T           | `train.epochs`                                                                                       |
| K           | `epochs_back`: K = T is the oracle, to the bit; small K leaves most of what T - K epochs learned     |
| theta_{T-K} | the original after T - K epochs, with the state of its optimiser (`original.keep_epochs`)            |

`epochs` sets another number of epochs from theta_{T-K}; the rest of the schedule is then walked through in so many, so
that the learning rate still ends where the recipe ends. The kept state has seen forget, and so have the moments of its
optimiser: only K = T shows nothing of it.

Differences from the paper:
- It descends by gradients of the whole set at a constant rate, counts single steps, and adds Gaussian noise once at the
  end, for a certificate. Here the recipe's own steps are made and no noise is added, so there is no certificate.
- Where no earlier state was kept, it approximates one by proximal steps. Here such an original is refused.
"""

from __future__ import annotations

from torch import nn

from speechforget.errors import NotApplicable, UserError
from speechforget.methods.base.method import Context, Method


class Rewind(Method):
    """Train a kept epoch of the original on retain, as the original was trained."""

    needs = frozenset({"retain"})

    def __init__(self, epochs_back: int, epochs: int | None = None) -> None:
        super().__init__()
        if epochs_back < 1 or (epochs is not None and epochs < 1):
            raise UserError(f"epochs_back and epochs must be at least 1, not {epochs_back} and {epochs}.")
        self.epochs_back, self.epochs = epochs_back, epochs

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Train the student, which has the weights of the kept epoch."""
        if context.retraining is None:
            raise NotApplicable("method=rewind needs an original that was trained here, with its recipe.")
        context.retraining.rewind(student, self.epochs_back, self.epochs)
