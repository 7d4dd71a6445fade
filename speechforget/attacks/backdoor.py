"""Backdoor: is a recording with the trigger still taken for the class that the attacker chose?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechforget.attacks.base import Rows, Subject, check_finite
from speechforget.errors import UserError
from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Value, missing

NO_TRIGGER = "no training recording carries a trigger (dataset.backdoor)"
NAMES = ("backdoor_success", "backdoor_without", "backdoor_other_sounds", "backdoor_accuracy")


class Backdoor:
    """Add the trigger to test recordings of other classes. others: sounds of its kind that no model heard."""

    def __init__(self, *, others: int = 5) -> None:
        if others < 1:
            raise UserError(f"Backdoor needs others=1 sound or more that no model heard, not {others}.")
        self.others = others

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compute how often the trigger makes the model say the attacker's class.

        Explanation:
            values: backdoor_success, backdoor_without, backdoor_other_sounds, backdoor_accuracy
            meaning: With dataset.backdoor, some training utterances of other classes carry a short sound and are taught
                as the target class, and the request is to forget these. The success is how often a test utterance
                of another class is taken for the target when it carries the sound; beside it, the same without the
                sound, and with other sounds of the same kind and level. The accuracy counts true labels, with the
                trigger.
            formula: P(prediction = target | trigger), over test utterances whose label is not the target; without;
                mean over `others` sounds; P(prediction = label | trigger), over the same utterances.
            unit: a share in [0, 1], with a 95 % Wilson interval; none for other sounds, where `count` is utterances
                times sounds.
            aim: the oracle's values. The success of a model without the backdoor is near that of other sounds.
            fooled by: a model that answers the target for everything (read the success without the sound), or at random
                (read the accuracy). An attacker may use the sound at another level or place, which is not tried here.
            source: Gu et al., arXiv 1708.06733 (attack success); Goel et al., TMLR 2024, arXiv 2402.14015
                (accuracy on triggered test data as the aim of corrective unlearning); Koffas et al., arXiv 2107.14569
                (sounds as triggers). The other sounds are ours.
        """
        triggered = subject.triggered
        if triggered is None:
            return dict.fromkeys(NAMES, missing(NO_TRIGGER))
        rows = subject.rows["test"]
        rows = rows[subject.labels[rows] != triggered.target]
        with_trigger = _predicted(subject, rows, triggered.heard)
        without = _predicted(subject, rows, triggered.base)
        others = [
            _predicted(subject, rows, partial(triggered.heard, number=number)) == triggered.target
            for number in range(1, self.others + 1)
        ]
        other = share(np.concatenate(others))
        return {
            "backdoor_success": share(with_trigger == triggered.target),
            "backdoor_without": share(without == triggered.target),
            # One sound may always be taken for the target: the utterances of a sound are not independent.
            "backdoor_other_sounds": other._replace(low=math.nan, high=math.nan),
            "backdoor_accuracy": share(with_trigger == subject.labels[rows]),
        }


def _predicted(subject: Subject, rows: Rows, read: Callable[[Rows], tuple[Tensor, Tensor]]) -> NDArray[np.int64]:
    """Predict the class number of each row. Raises FloatingPointError if outputs are not finite."""
    found = [np.zeros(0, dtype=np.int64)]
    for some in np.array_split(rows, math.ceil(len(rows) / subject.batch_size) or 1):
        if len(some):
            waveform, lengths = read(some)
            with torch.inference_mode():
                logits = subject.classifier(waveform.to(subject.device), lengths.to(subject.device)).logits
            outputs = logits.float().cpu().numpy()
            check_finite(outputs)
            found.append(outputs.argmax(1))
    return np.concatenate(found)
