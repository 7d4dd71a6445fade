"""Selective synaptic dampening: weights that matter more to forget than to the whole training set are made smaller.

Foster, Schoepf & Brintrup, "Fast machine unlearning without retraining through selective synaptic dampening", AAAI 2024.

    I_D = mean over batches of D of (gradient of the batch's mean cross-entropy)^2,  I_f on forget, I on the whole training set
    theta_u = theta_o * max(min(lambda * I / I_f, 1), floor)  where I_f > alpha * I,  else theta_o

| symbol      | argument                                                                                     |
|-------------|----------------------------------------------------------------------------------------------|
| alpha       | `alpha`                                                                                      |
| lambda      | `dampening`                                                                                  |
| floor       | `floor`; 0 as published                                                                      |
| auto        | `alpha: auto`: the percentile number 100 - ln(1 + 100 n_f / n) of I_f / I, as in `assd.py`    |
| batch       | `batch_size`, of both importances                                                            |
| I           | `importance`: `batch` as above, or `sample`: the mean over utterances of squared gradients   |

One argument says the batch size of both importances, since they are not comparable otherwise (the public code lets them differ). `sample` is the
diagonal of the empirical Fisher information, which knows no batch size. The edit knows no draw: equal originals give equal unlearned models.
Running statistics stay. The importance on the whole training set is kept for other requests.

I holds I_f, so I_f / I is at most the number of times that forget fits into the training set, and comes near to that where one hard utterance makes
up most of both: of many samples one then decides the whole edit. `floor`, which the public code of ASSD has (`assd.py`), keeps it small. For the
same reason no number suits all requests: of 30 % of the data hardly a ratio is above 4, and of one class of 40 many are above 40. `auto` follows both
the request's share (n_f of n utterances) and how the ratios of this original are spread.
"""

from __future__ import annotations

from torch import nn

from speechforget.errors import UserError, nearest
from speechforget.methods.base.method import Context, Method
from speechforget.methods.common.importance import (
    AUTO,
    adapted,
    check_alpha,
    dampen,
    squared_gradients,
    squared_sample_gradients,
)

IMPORTANCES = {"batch": squared_gradients, "sample": squared_sample_gradients}


class Ssd(Method):
    """One edit of the weights, from one pass over the training set and one over forget."""

    def __init__(
        self, alpha: float | str, dampening: float, batch_size: int, importance: str = "batch", floor: float = 0.0
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        if importance not in IMPORTANCES:
            raise UserError(f"There is no method.importance={importance}: {nearest(importance, IMPORTANCES)}")
        self.alpha, self.dampening, self.batch_size, self.importance, self.floor = (
            alpha,
            dampening,
            batch_size,
            importance,
            floor,
        )

    def prepare(self, student: nn.Module, context: Context) -> None:
        """The whole edit."""
        of = IMPORTANCES[self.importance]
        whole, forget = context.remember(of, "train", self.batch_size), of(context, "forget", self.batch_size)
        alpha = adapted(context, forget, whole, self.batch_size) if self.alpha == AUTO else float(self.alpha)
        dampen(student, forget, whole, alpha, self.dampening, self.floor)
