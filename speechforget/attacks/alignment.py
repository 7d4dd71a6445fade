"""Alignment: would unlearning a request hurt others more than unlearning random recordings of the same number?

Gradient ascent on forget moves the weights along g_F, the gradient of its mean loss. So the loss of others rises by
<g_F, g_O> a unit of movement, to first order. A poisoned request is one for which this is large, or for which g_F
itself is: methods then move far. Both are compared with random training recordings of the same number, so no threshold
is made up.

Others are validation recordings, which no model was trained on. Retain is given, too, but misleads: where training
stands still, the gradients of forget and retain cancel, whatever is asked for.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechforget.attacks.base import Subject
from speechforget.attacks.common.gradients import mean_gradient
from speechforget.errors import UserError
from speechforget.evaluation.damage import FEWEST_RANDOM
from speechforget.evaluation.tables import Value, missing

NO_VALIDATION = "there are no validation recordings, which stand for others (dataset.validation)"
NAMES = ("alignment_retain", "alignment_validation", "harm_predicted", "gradient_norm")
ENDS = ("", "_random", "_p")


class Alignment:
    """Compare the gradient of a request with those of others. randoms: requests of random training recordings."""

    def __init__(self, *, randoms: int = 39) -> None:
        if randoms < FEWEST_RANDOM:
            raise UserError(
                f"Alignment needs randoms={FEWEST_RANDOM} random requests or more for a level of 5 %, not {randoms}."
            )
        self.randoms = randoms

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compare the gradient of forget with that of others, beside random requests of the same number.

        Explanation:
            values: alignment_retain, alignment_retain_random, alignment_retain_p, alignment_validation,
                alignment_validation_random, alignment_validation_p, harm_predicted, harm_predicted_random,
                harm_predicted_p, gradient_norm, gradient_norm_random, gradient_norm_p
            meaning: Whether forgetting this request pulls the weights where others are hurt. The predicted harm is by
                how much the loss of validation rises where the loss of the request is raised, to first order. The
                alignments are its direction alone; the norm is its size, and methods move far where it is large. A
                request with more harm, or a larger norm, than all random ones of the same number may be poisoned. Read
                it in the original, before the method is run.
            formula: cos(g_F, g_R), cos(g_F, g_V), <g_F, g_V>, |g_F|, with g the gradient of the mean cross-entropy of
                taught labels to all trained weights, at rest; _random: mean over random requests of as many training
                utterances, each with its own retain; _p: share of the request and the random ones with a number as
                large.
            unit: a cosine in [-1, 1]; nats a unit of weight for the norm, and its square for the harm; a p-value in
                [1 / (randoms + 1), 1]. The ends of _random are its smallest and its largest number; `count` is
                utterances, or random requests.
            aim: p-values of harm_predicted and gradient_norm that are not the smallest. No cosine is good or bad.
            fooled by: methods that move elsewhere than up the gradient of forget; honest requests that are hard, of a
                class or a person. Cosines with retain are negative for requests with large losses, since the gradients
                of all training utterances nearly cancel where training ended.
            source: Koh & Liang, ICML 2017, arXiv 1703.04730 (influence, here without the inverse Hessian); Geiping et
                al., ICLR 2021, arXiv 2009.02276 (alignment of gradients makes poison); Zhao et al., NeurIPS 2023
                (malicious unlearning requests). The rank among random requests is ours.
        """
        forget, retain, validation = (subject.rows[name] for name in ("forget", "retain", "validation"))
        if not len(validation):
            return {f"{name}{end}": missing(NO_VALIDATION) for name in NAMES for end in ENDS}
        others, rest = mean_gradient(subject, validation), mean_gradient(subject, retain)
        mine = mean_gradient(subject, forget)
        trained, count, left = np.union1d(forget, retain), len(forget), len(retain)
        everything = count * mine + left * rest
        null = []
        for turn in range(self.randoms):
            drawn = mean_gradient(subject, subject.drawn(trained, count, "random request", turn))
            null.append(_numbers(drawn, (everything - count * drawn) / left, others))
        return _values(_numbers(mine, rest, others), np.array(null), count)


def _numbers(forget: Tensor, retain: Tensor, validation: Tensor) -> tuple[float, ...]:
    """Return the numbers of `NAMES`."""
    return (_cosine(forget, retain), _cosine(forget, validation), float(forget @ validation), float(forget.norm()))


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two vectors; 0 if one has no length."""
    norms = float(one.norm() * other.norm())
    return float(one @ other) / norms if norms > 0 else 0.0


def _values(mine: tuple[float, ...], null: NDArray[np.float64], count: int) -> dict[str, Value]:
    """Return each number, that of random requests (requests, numbers), and its rank among them as a p-value."""
    found = {}
    for name, value, randoms in zip(NAMES, mine, null.T, strict=True):
        p = (1 + int((randoms >= value).sum())) / (1 + len(randoms))
        found[name] = Value(value, math.nan, math.nan, count)
        found[f"{name}_random"] = Value(float(randoms.mean()), float(randoms.min()), float(randoms.max()), len(randoms))
        found[f"{name}_p"] = Value(p, math.nan, math.nan, len(randoms))
    return found
