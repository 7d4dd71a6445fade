"""Train the shards that held the request again, from the first slice that held it: exact unlearning.

SISA (sharded, isolated, sliced, aggregated training): Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang,
Lie & Papernot, "Machine unlearning", IEEE S&P 2021 (arXiv 1912.03817).

    p(x) = 1/S sum_s p_s(x; theta_{s,R}),   theta_{s,r} = A(theta_{s,r-1}; D_{s,1} ... D_{s,r})

| symbol      | meaning                                                                                            |
|-------------|----------------------------------------------------------------------------------------------------|
| S, R        | `train.sisa.shards`, `train.sisa.slices`                                                           |
| D_{s,r}     | slice r of shard s: training utterances, or whole speakers (`by`), by the hash of their name       |
| A           | training by the recipe on all slices so far, with a fresh optimiser                                |
| theta_{s,r} | weights of member s after slice r; kept for r = 1 ... R                                            |
| p           | mean of the members' probabilities                                                                 |

If the request holds an utterance of D_{s,r} and none of an earlier slice, member s is trained from theta_{s,r-1} on
what is left of D_{s,r} ... D_{s,R}; members without such an utterance stay. The result is the ensemble that the same
recipe gives without the request, to the bit. So the oracle is that ensemble, trained from scratch. A member whose shard
is empty leaves the ensemble.

Differences from the public code:
- Slices continue with a fresh optimiser also in one process, and the learning rate has a schedule for each slice.
- Utterances are dealt by hashes instead of in the order of the data, so a request moves no other utterance.
"""

from __future__ import annotations

from torch import nn

from speechforget.errors import NotApplicable
from speechforget.methods.base.method import Context, Method


class Sisa(Method):
    """Retrain the affected members of an ensemble."""

    needs = frozenset({"retain"})

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Replace the members that held an utterance of the request."""
        if context.retraining is None or not hasattr(student, "members"):
            raise NotApplicable("The method sisa retrains shards, and the original has none: train it with train=sisa.")
        if self.retain_share != 1:
            raise NotApplicable("The method sisa is exact on the whole of retain: set method.retain_share=1.")
        context.retraining.shards(student)
