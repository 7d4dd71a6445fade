"""Dampen weights that matter more to forget than to the whole training set.

SSD, selective synaptic dampening: Foster, Schoepf & Brintrup, "Fast machine unlearning without retraining through
selective synaptic dampening", AAAI 2024.

    I_D = mean over batches of D of (gradient of the batch's mean cross-entropy)^2
    I_f on forget, I on the whole training set
    theta_u = theta_o * max(min(lambda * I / I_f, 1), floor)  where I_f > alpha * I,  else theta_o

| symbol | meaning                                                                                      |
|--------|----------------------------------------------------------------------------------------------|
| alpha  | `alpha`; `auto`: the percentile number 100 - ln(1 + 100 n_f / n) of I_f / I, as in `assd.py` |
| n_f, n | number of utterances in forget and in the training set                                       |
| lambda | `dampening`                                                                                  |
| floor  | `floor`; 0 as published                                                                      |
| batch  | `batch_size`, of both importances                                                            |
| I      | `importance`: `batch` as above, or `sample`: the mean over utterances of squared gradients   |

Both importances share one batch size, because they are not comparable otherwise; the public code lets them differ.
`sample` is the diagonal of the empirical Fisher information and does not depend on the batch size. Nothing is random:
equal originals give equal unlearned models. Running statistics stay unchanged. The importance on the whole training set
is stored for other requests.

I contains I_f. So I_f / I is at most the number of times that forget fits into the training set. It comes close to that
if one hard utterance makes up most of both. In a sample request, one utterance can then decide the whole edit. `floor`,
which the public code of ASSD has (`assd.py`), limits the damage.

For the same reason, no fixed alpha suits all requests. For 30 % of the data hardly a ratio is above 4; for one class of
40 many are above 40. `auto` follows the request's share and the spread of this original's ratios.
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
    """Edit the weights once, after one pass over the training set and one over forget."""

    def __init__(
        self, alpha: float | str, dampening: float, batch_size: int, importance: str = "batch", floor: float = 0.0
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        if importance not in IMPORTANCES:
            raise UserError(f"There is no method.importance={importance}: {nearest(importance, IMPORTANCES)}")
        self.alpha, self.dampening, self.floor = alpha, dampening, floor
        self.batch_size, self.importance = batch_size, importance

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Do the whole edit."""
        of = IMPORTANCES[self.importance]
        whole, forget = context.remember(of, "train", self.batch_size), of(context, "forget", self.batch_size)
        alpha = adapted(context, forget, whole, self.batch_size) if self.alpha == AUTO else float(self.alpha)
        dampen(student, forget, whole, alpha, self.dampening, self.floor)
