"""Prototype relearning: does the mean embedding of a few forgotten utterances recognise the others?

The attack of "Unlearning's Blind Spots: Over-Unlearning and Prototypical Relearning Attack", arXiv 2506.01318: the row
of the head for a class becomes the mean embedding of k utterances. Only the head changes, so what it recognises was in
the features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.attacks.base import PREFIX, Rows, Subject, missing, too_few
from speechforget.config.ranges import whole
from speechforget.evaluation.tables import Value

NO_HEAD = "the head of the model is not linear"


class Prototype:
    """Replace rows of the head. shots: utterances of each class of forget. draws: of them.

    centred: subtract the mean embedding of retain from each prototype; the paper does not. Embeddings that are never
    negative, as after a ReLU, are all alike in direction, so a plain prototype takes utterances of every class.
    most: utterances of retain and of holdout, drawn by the seed where there are more.
    """

    def __init__(
        self, *, shots: Sequence[int] = (1, 5, 10), draws: int = 5, centred: bool = True, most: int = 500
    ) -> None:
        whole({"draws": draws}, "draws", 1, PREFIX)
        self.shots, self.draws, self.centred, self.most = tuple(shots), draws, centred, most

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compute two values in [0, 1] for each number of shots k, means over draws.

        prototype_<k>_accuracy: accuracy on the rest of forget. The rows of all classes of forget are replaced at once;
            classes with too few utterances keep theirs and are not counted. `count` is the smallest rest of a draw.
        prototype_<k>_taken: share of the holdout utterances of classes that keep their row which a new row takes: what
            the attack costs. An accuracy means little if it is large.

        A new row has the mean norm of the rows that stay, or of the replaced ones if none stays; a new bias is the mean
        of theirs. No interval, as the draws share utterances.
        """
        if not isinstance(subject.classifier.head, nn.Linear):
            names = [f"prototype_{count}_{what}" for count in self.shots for what in ("accuracy", "taken")]
            return dict.fromkeys(names, missing(NO_HEAD))
        holdout = subject.drawn(subject.rows["holdout"], self.most, "prototype", "holdout")
        retain = subject.drawn(subject.rows["retain"], self.most, "prototype", "retain")
        rows = np.unique(np.concatenate([subject.rows["forget"], holdout, retain]))
        embeddings = Embeddings(rows, torch.from_numpy(subject.outputs(rows).embedding))
        centre = embeddings.of(retain).mean(0) if self.centred else torch.zeros(1)
        values: dict[str, Value] = {}
        for count in self.shots:
            values |= self._values(subject, embeddings, centre, holdout, count)
        return values

    def _values(
        self, subject: Subject, embeddings: Embeddings, centre: Tensor, holdout: Rows, count: int
    ) -> dict[str, Value]:
        accuracies, taken, sizes = [], [], []
        for draw in range(self.draws):
            picked, rest = subject.shots(count, "prototype", count, draw)
            if not len(rest):
                reason = missing(too_few(count))
                return {f"prototype_{count}_accuracy": reason, f"prototype_{count}_taken": reason}
            replaced = np.unique(subject.labels[picked])
            others = holdout[~np.isin(subject.labels[holdout], replaced)]
            prototypes = {
                int(number): embeddings.of(picked[subject.labels[picked] == number]).mean(0) - centre
                for number in replaced
            }
            head = with_prototypes(subject.classifier.head, prototypes)  # type: ignore[arg-type]
            accuracies.append(np.mean(_predicted(head, embeddings.of(rest)) == subject.labels[rest]))
            taken.append(np.isin(_predicted(head, embeddings.of(others)), replaced).mean() if len(others) else 0.0)
            sizes.append(len(rest))
        lost = _mean(taken, len(others)) if len(others) else missing("holdout has no utterance of a class that stays")
        return {f"prototype_{count}_accuracy": _mean(accuracies, min(sizes)), f"prototype_{count}_taken": lost}


class Embeddings(NamedTuple):
    """Hold embeddings (n, dimensions) of ascending rows (n,)."""

    rows: Rows
    vectors: Tensor

    def of(self, rows: Rows) -> Tensor:
        """Return the embeddings of some of the rows."""
        return self.vectors[np.searchsorted(self.rows, rows)]


def _mean(shares: Sequence[float], count: int) -> Value:
    return Value(float(np.mean(shares)), math.nan, math.nan, count)


@torch.inference_mode()
def _predicted(head: nn.Linear, embedding: Tensor) -> NDArray[np.int64]:
    return head(embedding).argmax(1).numpy()


def with_prototypes(head: nn.Linear, prototypes: dict[int, Tensor]) -> nn.Linear:
    """Return a copy of the head on the CPU with these rows, scaled; see `Prototype`."""
    changed = copy.deepcopy(head).float().cpu()
    replaced = sorted(prototypes)
    kept = [number for number in range(changed.out_features) if number not in prototypes] or replaced
    with torch.no_grad():
        norm = changed.weight[kept].norm(dim=1).mean()
        bias = None if changed.bias is None else changed.bias[kept].mean()
        for number in replaced:
            row = prototypes[number]
            changed.weight[number] = row * norm / row.norm().clamp(min=1e-12)
            if bias is not None:
                changed.bias[number] = bias
    return changed
