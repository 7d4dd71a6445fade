"""Completeness of unlearning, utterance by utterance (IAM: USENIX Security 2025, arXiv 2506.06112).

Let o be the margin of an utterance in a model that never heard it, m in the original, and u in the unlearned model.
Interpolated margins m_a = o + a (m - o), a in [0, 1], have Gumbel distributions F_a with mean m_a and a shared spread:

    membership(x) = sum_a a F_a(u) / sum_a a,        completeness(x) = 1 - membership(x)
"""

from __future__ import annotations

import math

import numpy as np

from speechforget.evaluation.audit.tables import Floats

STEPS = 100
EULER = 0.5772156649015329


def completeness(unlearned: Floats, original: Floats, oracles: Floats) -> Floats:
    """Compute the completeness of each utterance, in [0, 1]; large where the margin is like an oracle's, or below.

    unlearned, original: (n,). oracles: (K, n), one or more; their mean is the model that never heard the utterance. Its
    null is the completeness of a further oracle in the unlearned model's place, not 1.
    """
    out = oracles.mean(axis=0)
    spread = float(oracles.std(axis=0, ddof=1).mean()) if len(oracles) > 1 else float(out.std())
    scale = max(spread, 1e-12) * math.sqrt(6) / math.pi
    shares = np.linspace(0.0, 1.0, STEPS)[:, None]
    location = out + shares * (original - out) - EULER * scale
    with np.errstate(over="ignore"):
        below = np.exp(-np.exp(-(unlearned - location) / scale))
    return 1 - (shares * below).sum(axis=0) / shares.sum()
