"""Compression: does what was forgotten return when the weights are quantised, pruned or normalised anew?

After Zhang et al., "Catastrophic Failure of LLM Unlearning via Quantization", ICLR 2025. Keyword models are deployed
with such weights, so an attacker may only have to deploy the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.attacks.base import PREFIX, Rows, Subject
from speechforget.config.ranges import number, whole
from speechforget.evaluation.intervals import share
from speechforget.evaluation.membership import area_under_curve
from speechforget.evaluation.tables import Value, missing

NO_NORM = "the model has no batch normalisation"


class Compression:
    """Change the weights of a copy and measure it again. Only weights with two or more axes are quantised or pruned.

    bits: of symmetric quantisation with one scale for each output channel. fp16 rounds all weights to half precision;
    activations stay in single precision everywhere. pruning: shares of the weights, the smallest of all layers
    together, that become 0. batch_size: of the means that batch-norm statistics are estimated anew from, on retain.
    most: utterances of forget, of the non-members and of retain, drawn by the seed where there are more.
    """

    def __init__(
        self,
        *,
        bits: Sequence[int] = (8, 4),
        pruning: Sequence[float] = (0.3, 0.5),
        most: int = 1000,
        batch_size: int = 100,
    ) -> None:
        for each in bits:
            whole({"bits": each}, "bits", 2, PREFIX)
        for part in pruning:
            number({"pruning": part}, "pruning", 0.0, 1.0, PREFIX)
        self.bits, self.pruning, self.most, self.batch_size = tuple(bits), tuple(pruning), most, batch_size

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Change the weights, and measure accuracy on forget and the AUC of the loss attack.

        Explanation:
            values: <change>_accuracy_forget, <change>_change_forget, <change>_membership_auc
            meaning: What a model shows after the changes that deployment makes: weights rounded to 8 or 4 bits (int8,
                int4) or half precision (fp16), the smallest 30 or 50 % of the weights set to 0 (pruned_30, pruned_50),
                or batch-norm statistics estimated anew (batch_norm). If forgetting was a thin layer over the old
                weights, the old answers return.
            formula: accuracy on forget of the changed model; that minus the accuracy of the unchanged model; P(loss of
                forget < loss of non-member) + ties / 2 of the changed model. Rounding is symmetric, with one scale for
                each output channel.
            unit: shares in [0, 1], the change in [-1, 1]; 95 % Wilson interval, 95 % interval of paired differences
                (Agresti & Min 2005), 99 % interval of the AUC.
            aim: the oracle's value: what returns in a model that never heard forget is no memory.
            fooled by: rounding so coarse that the model breaks; accuracies near 0 or 1, which can move one way only.
            source: after Zhang et al., ICLR 2025.
        """
        forget = subject.drawn(subject.rows["forget"], self.most, "compression", "forget")
        nonmembers = subject.drawn(subject.rows["nonmembers"], self.most, "compression", "nonmembers")
        before = subject.right(forget)
        values: dict[str, Value] = {}
        for name, change in self._changes(subject).items():
            copied = subject.copy()
            reason = change(copied)
            if reason is None:
                try:
                    values |= _measured(subject, copied, name, before, forget, nonmembers)
                    continue
                except FloatingPointError:
                    reason = "the outputs of the changed model are not finite"
            values |= dict.fromkeys(_names(name), missing(reason))
        return values

    def _changes(self, subject: Subject) -> dict[str, Callable[[nn.Module], str | None]]:
        changes: dict[str, Callable[[nn.Module], str | None]] = {}
        changes |= {f"int{bits}": partial(quantise, bits=bits) for bits in self.bits}
        changes["fp16"] = halve
        changes |= {f"pruned_{100 * part:g}": partial(prune, part=part) for part in self.pruning}
        rows = subject.drawn(subject.rows["retain"], self.most, "batch norm")
        changes["batch_norm"] = partial(estimate_again, subject=subject, rows=rows, batch_size=self.batch_size)
        return changes


def _names(name: str) -> tuple[str, str, str]:
    return f"{name}_accuracy_forget", f"{name}_change_forget", f"{name}_membership_auc"


def _measured(
    subject: Subject, changed: nn.Module, name: str, before: np.ndarray, forget: Rows, nonmembers: Rows
) -> dict[str, Value]:
    logits = subject.outputs(forget, changed).logits
    right = logits.argmax(1) == subject.labels[forget]
    found = [share(right), _paired(right.astype(float) - before)]
    if len(nonmembers):
        others = subject.outputs(nonmembers, changed).logits
        speakers = None if subject.speakers is None else (subject.speakers[forget], subject.speakers[nonmembers])
        losses = _losses(subject, forget, logits), _losses(subject, nonmembers, others)
        found.append(area_under_curve(*losses, speakers=speakers))
    else:
        found.append(missing("there are no non-members"))
    return dict(zip(_names(name), found, strict=True))


def _losses(subject: Subject, rows: Rows, logits: np.ndarray) -> np.ndarray:
    labels = torch.from_numpy(subject.labels[rows])
    return cross_entropy(torch.from_numpy(logits).double(), labels, reduction="none").numpy()


def _paired(differences: np.ndarray) -> Value:
    """Return the mean of differences of right predictions, -1, 0 or 1, with a 95 % interval.

    Agresti & Min, Statistics in Medicine 2005: half an utterance is added to each of the four outcomes.
    """
    count, half = len(differences), NormalDist().inv_cdf(0.975)
    gained, lost = float((differences > 0).sum()) + 0.5, float((differences < 0).sum()) + 0.5
    centre, trials = (gained - lost) / (count + 2), count + 2
    half *= math.sqrt(gained + lost - (gained - lost) ** 2 / trials) / trials
    value = float(differences.mean())
    return Value(value, min(value, max(centre - half, -1.0)), max(value, min(centre + half, 1.0)), count)


def _weights(classifier: nn.Module) -> list[Tensor]:
    return [parameter.data for parameter in classifier.parameters() if parameter.dim() > 1]


def quantise(classifier: nn.Module, bits: int) -> None:
    """Round each weight to a multiple of its channel's scale, which is the channel's largest / (2^(bits - 1) - 1).

    Channels are along the first axis.
    """
    levels = 2 ** (bits - 1) - 1
    for weight in _weights(classifier):
        scale = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / levels
        scale = scale.view(-1, *[1] * (weight.dim() - 1))
        weight.copy_((weight / scale).round_() * scale)


def halve(classifier: nn.Module) -> None:
    """Round every parameter to half precision."""
    for parameter in classifier.parameters():
        parameter.data.copy_(parameter.data.half())


def prune(classifier: nn.Module, part: float) -> None:
    """Set this share of all weights to 0, those with the smallest absolute values; ties at the threshold go, too."""
    weights = _weights(classifier)
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    gone = round(part * len(sizes))
    if gone:
        threshold = sizes.kthvalue(gone).values
        for weight in weights:
            weight.masked_fill_(weight.abs() <= threshold, 0.0)


def estimate_again(classifier: nn.Module, subject: Subject, rows: Rows, batch_size: int) -> str | None:
    """Estimate the running statistics of batch normalisation anew, as means over equal batches of these rows."""
    norms = [module for module in classifier.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return NO_NORM
    size = min(batch_size, len(rows))
    if size < 2:
        return "one retain utterance is too few for batch statistics"
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.inference_mode():
        for batch in subject.batches(rows[: len(rows) // size * size], size):
            classifier(*batch.inputs)
    classifier.eval()
    return None
