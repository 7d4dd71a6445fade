"""Planted keys: does a model still know the secret noise that forgotten recordings carried?

Gaussian unlearning score: Pawelczyk et al., "Machine unlearning fails to remove data poisoning attacks", ICLR 2025,
arXiv 2406.17216. A model that never heard a key is independent of it, so both statistics have a known
distribution without any other model: N(0, 1) for the first, uniform ranks for the second.

gradient: I = -<g, xi> / |g|, with g = the gradient of the loss to the waveform at the recording without its key.
rank: the rank of the margin with the own key among margins with keys that no model heard, as a normal score.

The sign: training lowers the loss at x + s xi, so the loss falls in the direction of a remembered key. Hence the minus:
a positive mean says that influence is left, a negative one that the method pushed the model away from the recordings.
A deviation from the paper is the rank. The gradient at x is a linear view of the key; a log-mel frontend is far from
linear where a recording is quieter than its key, so the gradient has less power on speech (docs/requests.md).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from speechforget.attacks.base import Subject
from speechforget.errors import UserError
from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Value, missing

Numbers = NDArray[np.float64]
FALSE_ALARMS = 0.01  # per utterance
NO_KEYS = "no forgotten recording carries a key (dataset.planted)"


class PlantedKey:
    """Test for the keys of forgotten recordings. fresh: keys per recording that no model heard, for the ranks.

    With 99, the own key ranks first with a probability of 1 % in a model that never heard it.
    """

    def __init__(self, *, fresh: int = 99) -> None:
        if fresh < 1 / FALSE_ALARMS - 1:
            raise UserError(f"PlantedKey needs fresh=99 keys or more for 1 % false alarms, not {fresh}.")
        self.fresh = fresh

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compute how surely the keys of forgotten recordings are found, by two statistics.

        Explanation:
            values: key_rank, key_rank_z, key_rank_tpr, key_gradient, key_gradient_z, key_gradient_tpr
            meaning: With dataset.planted, some training recordings carry secret noise, and the request is to forget
                these recordings. A model that never heard a recording cannot tell its key from other noise. This is
                known without any other model, so evidence in one model is enough. The original's z is the power of the
                test: below 5, a small z of another model says little.
            formula: I = -<g, xi> / |g| (gradient), g = gradient of the loss to the waveform at the recording without
                its key; or I = normal score of the rank of the margin with the own key among the margins with `fresh`
                other keys of the same level (rank). key_rank and key_gradient are means of I over p recordings;
                z = mean * sqrt(p); tpr = share of recordings whose key is found at 1 % false alarms.
            unit: standard deviations of I without influence (mean), of their mean (z), or a share (tpr); 95 %
                intervals; `count` is recordings.
            aim: 0 for mean and z, within -2 to 2 in 95 % of models without influence; 0.01 for tpr. Positive: influence
                is left, since training lowered the loss towards the key. Negative: pushed away from the recordings.
            fooled by: a model that answers alike for all noise (read the original's z and the accuracy of forget); the
                gradient is a linear view, and has little power where a recording is quieter than its key.
            source: Pawelczyk et al., "Machine unlearning fails to remove data poisoning attacks", ICLR 2025,
                arXiv 2406.17216 (Gaussian unlearning score). The rank is ours, in the manner of the exposure of
                Carlini et al., USENIX Security 2019.
        """
        planted, rows = subject.planted, subject.rows["forget"]
        if planted is not None:
            rows = rows[planted.keys.carried[rows]]
        if planted is None or not len(rows):
            nothing = missing(NO_KEYS)
            return {f"{name}{end}": nothing for name in ("key_rank", "key_gradient") for end in ("", "_z", "_tpr")}
        ranks, gradients = [], []
        for some in np.array_split(rows, math.ceil(len(rows) / subject.batch_size)):
            labels = torch.from_numpy(subject.labels[some]).to(subject.device)
            heard = [
                margins(subject.classifier, *planted.heard(some, number), labels) for number in range(self.fresh + 1)
            ]
            ranks.append(rank_scores(heard[0], np.stack(heard[1:], axis=1)))
            slope = gradient(subject.classifier, *planted.base(some), labels)
            gradients.append(gradient_scores(slope, planted.normal(some).numpy()))
        return {
            **values_of("key_rank", np.concatenate(ranks), rank_threshold(self.fresh)),
            **values_of("key_gradient", np.concatenate(gradients), float(ndtri(1 - FALSE_ALARMS))),
        }


def margins(classifier: nn.Module, waveform: Tensor, lengths: Tensor, labels: Tensor) -> Numbers:
    """Compute z_y - log sum of exp z over the other classes of each utterance, float64."""
    with torch.inference_mode():
        logits = classifier(waveform.to(labels.device), lengths.to(labels.device)).logits.double()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).logsumexp(1)
    found: Numbers = (own - others).cpu().numpy()
    return found


def gradient(classifier: nn.Module, waveform: Tensor, lengths: Tensor, labels: Tensor) -> Numbers:
    """Compute the gradient of each utterance's loss to its waveform (n, samples), float64; parameters keep theirs."""
    leaf = waveform.detach().to(labels.device).clone().requires_grad_(True)
    output = classifier(leaf, lengths.to(labels.device))
    loss = nn.functional.cross_entropy(output.logits, labels, reduction="sum")
    found: Numbers = torch.autograd.grad(loss, leaf)[0].double().cpu().numpy()
    return found


def gradient_scores(gradients: Numbers, keys: Numbers) -> Numbers:
    """Compute I = -<g, xi> / |g| for gradients g and keys xi (n, samples); N(0, 1) where g is independent of xi.

    An utterance with gradient 0 gets 0.
    """
    norms = np.linalg.norm(gradients, axis=1)
    return -np.einsum("ns,ns->n", gradients, keys) / np.where(norms > 0, norms, 1.0)


def rank_scores(own: Numbers, fresh: Numbers) -> Numbers:
    """Compute a normal score of the rank of own (n,) among fresh (n, m); mean 0 and variance 1 without influence.

    Ranks of ties are their mean.
    """
    below, equal = (fresh < own[:, None]).sum(axis=1), (fresh == own[:, None]).sum(axis=1)
    return normal_score(below + equal / 2, fresh.shape[1])


def normal_score(below: Numbers, fresh: int) -> Numbers:
    """Compute the normal quantile of (below + 1/2) / (fresh + 1), scaled to variance 1 over uniform ranks."""
    scale = math.sqrt(float(np.mean(ndtri((np.arange(fresh + 1) + 0.5) / (fresh + 1)) ** 2)))
    found: Numbers = ndtri((below + 0.5) / (fresh + 1)) / scale
    return found


def rank_threshold(fresh: int) -> float:
    """Return a score that at most the share FALSE_ALARMS of uniform ranks exceeds."""
    lowest = fresh + 1 - math.floor((fresh + 1) * FALSE_ALARMS + 1e-9)  # fresh keys below one that counts as found
    return float(normal_score(np.array([lowest - 0.5]), fresh)[0])


def values_of(name: str, scores: Numbers, threshold: float) -> dict[str, Value]:
    """Return the mean score, its z and the share of scores above the threshold.

    `<name>`: the mean, 0 without influence. `<name>_z`: mean * sqrt(n), N(0, 1) without influence. `<name>_tpr`: the
    share of utterances whose key is found at 1 % false alarms. Intervals are of 95 %.
    """
    count = len(scores)
    root = math.sqrt(count)
    mean, half = float(scores.mean()), float(ndtri(0.975)) / root
    return {
        name: Value(mean, mean - half, mean + half, count),
        f"{name}_z": Value(mean * root, (mean - half) * root, (mean + half) * root, count),
        f"{name}_tpr": share(scores > threshold),
    }
