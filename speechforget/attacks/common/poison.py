"""Choose a poisoned request: the training recordings whose forgetting is predicted to hurt others most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from speechforget.attacks.base import Rows, Subject
from speechforget.attacks.common.gradients import Numbers, mean_gradient, slopes
from speechforget.errors import UserError


class Poison(NamedTuple):
    """Hold a poisoned request. rows: ascending. predicted: harm of it. random: harm of all training recordings."""

    rows: Rows
    predicted: float
    random: float


def poison(subject: Subject, count: int) -> Poison:
    """Choose `count` training utterances with the largest predicted harm; exact copies are chosen together.

    The harm of a request is the mean over its utterances of <g_i, g_V> (see `attacks.alignment`), so the best request
    is that of the largest ones. Raises UserError without validation utterances, or if so few would be left that
    nothing can be learned.
    """
    trained = np.union1d(subject.rows["forget"], subject.rows["retain"])
    others = subject.rows["validation"]
    if not len(others):
        raise UserError("There are no validation recordings, which stand for others: raise dataset.validation.")
    if not 0 < count < len(trained):
        raise UserError(f"A poisoned request takes 1 to {len(trained) - 1} of the {len(trained)} training recordings.")
    direction = mean_gradient(subject, others)
    harm = slopes(subject, trained, direction) * float(direction.norm())
    rows = largest(trained, subject.units[trained], harm, count)
    return Poison(rows, float(harm[np.isin(trained, rows)].mean()), float(harm.mean()))


def largest(rows: Rows, units: Rows, harm: Numbers, count: int) -> Rows:
    """Return the rows of the units with the largest mean harm, until there are at least `count` of them, ascending."""
    _, place, sizes = np.unique(units, return_inverse=True, return_counts=True)
    means = np.bincount(place, harm) / sizes
    order = np.argsort(-means, kind="stable")
    taken = order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), count))]
    return np.sort(rows[np.isin(place, taken)])
