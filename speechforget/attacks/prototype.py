"""Prototype relearning: does the mean embedding of a few forgotten utterances recognise the others?

The attack of "Unlearning's Blind Spots: Over-Unlearning and Prototypical Relearning Attack", arXiv 2506.01318: the row
of the head for a class becomes the mean embedding of k utterances. Only the head changes, so what it recognises was in
the features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from speechforget.attacks.base import Outputs, Rows, Subject, missing, too_few
from speechforget.evaluation.tables import Value

NO_HEAD = "the head of the model is not linear"


class Prototype:
    """Replace rows of the head. shots: utterances of each class of forget. draws: of them."""

    def __init__(self, *, shots: Sequence[int] = (1, 5, 10), draws: int = 5) -> None:
        self.shots, self.draws = tuple(shots), draws

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compute `prototype_<k>_accuracy` in [0, 1]: accuracy on the rest of forget, the mean over draws.

        The rows of all classes of forget are replaced at once; classes with too few utterances keep theirs and are not
        counted. A new row has the mean norm of the rows that stay, or of the replaced ones if none stays; a new bias is
        the mean of theirs. No interval, as the draws share utterances; `count` is the smallest rest of a draw.
        """
        names = {f"prototype_{count}_accuracy": count for count in self.shots}
        if not isinstance(subject.classifier.head, nn.Linear):
            return dict.fromkeys(names, missing(NO_HEAD))
        outputs = subject.outputs(subject.rows["forget"])
        return {name: self._value(subject, outputs, count) for name, count in names.items()}

    def _value(self, subject: Subject, outputs: Outputs, count: int) -> Value:
        found = []
        for draw in range(self.draws):
            picked, rest = subject.shots(count, "prototype", count, draw)
            if not len(rest):
                return missing(too_few(count))
            found.append((_accuracy(subject, outputs, picked, rest), len(rest)))
        accuracies, sizes = zip(*found, strict=True)
        return Value(float(np.mean(accuracies)), math.nan, math.nan, min(sizes))


def _accuracy(subject: Subject, outputs: Outputs, picked: Rows, rest: Rows) -> float:
    forget = subject.rows["forget"]
    embedding = torch.from_numpy(outputs.embedding)
    labels = subject.labels[picked]
    prototypes = {
        int(number): embedding[np.searchsorted(forget, picked[labels == number])].mean(0)
        for number in np.unique(labels)
    }
    head = with_prototypes(subject.classifier.head, prototypes)  # type: ignore[arg-type]
    with torch.inference_mode():
        predicted = head(embedding[np.searchsorted(forget, rest)]).argmax(1).numpy()
    return float(np.mean(predicted == subject.labels[rest]))


def with_prototypes(head: nn.Linear, prototypes: dict[int, torch.Tensor]) -> nn.Linear:
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
