"""Prototype relearning: does the mean embedding of a few forgotten utterances recognise the others?

The attack of "Unlearning's Blind Spots: Over-Unlearning and Prototypical Relearning Attack", arXiv 2506.01318: the row
of the head for a class becomes the mean embedding of k utterances. Only the head changes, so what it recognises was in
the features.

Ours differs in the bias, which decides how much a new row takes from the other classes. With the mean bias of the other
rows, it took 66 % of other words from an oracle, and nothing from a distilled head (espeak, 10 shots). So the bias is
such that the row takes a fixed share of unheard utterances of other classes: it is added to the logit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from speechforget.attacks.base import PREFIX, Rows, Subject, too_few
from speechforget.config.ranges import number, whole
from speechforget.evaluation.tables import Value, missing

NO_HEAD = "the head of the model is not linear"
UNHEARD = "holdout and validation have too few utterances of classes that keep their row"


class Prototype:
    """Replace rows of the head. shots: utterances of each class of forget. draws: of them.

    taken: share of the holdout and validation utterances of other classes that new rows take. most: such utterances,
    drawn by the seed where there are more.
    """

    def __init__(
        self, *, shots: Sequence[int] = (1, 5, 10), draws: int = 5, taken: float = 0.05, most: int = 500
    ) -> None:
        whole({"draws": draws}, "draws", 1, PREFIX)
        number({"taken": taken}, "taken", 0.001, 0.5, PREFIX)
        self.shots, self.draws, self.taken, self.most = tuple(shots), draws, taken, most

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Replace head rows by mean embeddings of a few forgotten utterances, and judge the others.

        The rows of all classes of forget are replaced at once; classes with too few utterances keep theirs and are not
        counted. New rows have the mean norm of the rows that stay and one bias, see above. If no row stays, as for most
        requests of samples, they have the mean norm and bias of the replaced ones.

        Explanation:
            values: prototype_<shots>_accuracy
            meaning: Whether the features still hold together what the head forgot: the mean embedding of 1, 5 or 10
                utterances of a class takes the place of its row, and nothing else changes but one bias.
            formula: accuracy on the rest of forget with row_c = scaled mean embedding of k utterances of c; mean over
                draws. The bias of new rows lets them take a fixed share of other classes, in every model.
            unit: shares in [0, 1]; no interval, as draws share utterances; `count` is the smallest rest of a draw.
            aim: the oracle's value: features of a model that never heard a word tell it apart, too.
            fooled by: few utterances of other classes, by which the bias is set.
            source: Prototypical Relearning Attack, arXiv 2506.01318.
        """
        names = {f"prototype_{count}_accuracy": count for count in self.shots}
        if not isinstance(subject.classifier.head, nn.Linear):
            return dict.fromkeys(names, missing(NO_HEAD))
        held = np.union1d(subject.rows["holdout"], subject.rows["validation"])
        others = held[~np.isin(subject.labels[held], subject.labels[subject.rows["forget"]])]
        others = subject.drawn(others, self.most, "prototype", "others")
        rows = np.union1d(subject.rows["forget"], others)
        embeddings = Embeddings(rows, torch.from_numpy(subject.outputs(rows).embedding))
        return {name: self._value(subject, embeddings, others, count) for name, count in names.items()}

    def _value(self, subject: Subject, embeddings: Embeddings, others: Rows, count: int) -> Value:
        accuracies, sizes = [], []
        for draw in range(self.draws):
            picked, rest = subject.shots(count, "prototype", count, draw)
            if not len(rest):
                return missing(too_few(count))
            labels = subject.labels[picked]
            prototypes = {int(each): embeddings.of(picked[labels == each]).mean(0) for each in np.unique(labels)}
            head = with_prototypes(subject.classifier.head, prototypes)  # type: ignore[arg-type]
            with torch.inference_mode():
                logits, replaced = head(embeddings.of(rest)), list(prototypes)
                if len(replaced) < len(subject.classes):
                    if len(others) * self.taken < 1:
                        return missing(UNHEARD)
                    lead = _lead(head(embeddings.of(others)), replaced)
                    logits[:, replaced] -= torch.quantile(lead, 1 - self.taken)
            accuracies.append(np.mean(logits.argmax(1).numpy() == subject.labels[rest]))
            sizes.append(len(rest))
        return Value(float(np.mean(accuracies)), math.nan, math.nan, min(sizes))


class Embeddings(NamedTuple):
    """Hold embeddings (n, dimensions) of ascending rows (n,)."""

    rows: Rows
    vectors: Tensor

    def of(self, rows: Rows) -> Tensor:
        """Return the embeddings of some of the rows."""
        return self.vectors[np.searchsorted(self.rows, rows)]


def with_prototypes(head: nn.Linear, prototypes: dict[int, Tensor]) -> nn.Linear:
    """Return a copy of the head on the CPU with these rows, scaled to the mean norm of the others; mean bias, too."""
    changed = copy.deepcopy(head).float().cpu()
    kept = [each for each in range(changed.out_features) if each not in prototypes] or list(prototypes)
    with torch.no_grad():
        norm = changed.weight[kept].norm(dim=1).mean()
        bias = None if changed.bias is None else changed.bias[kept].mean()
        for each, row in prototypes.items():
            changed.weight[each] = row * norm / row.norm().clamp(min=1e-12)
            if bias is not None:
                changed.bias[each] = bias
    return changed


def _lead(logits: Tensor, replaced: list[int]) -> Tensor:
    """Return by how much the best new row leads the best of the others (n,)."""
    ours = torch.zeros(logits.shape[1], dtype=torch.bool)
    ours[replaced] = True
    return logits[:, ours].amax(1) - logits[:, ~ours].amax(1)
