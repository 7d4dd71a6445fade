"""Speaker verification by the embedding: is a forgotten speaker still recognised as a voice?

The head can forget a speaker while the embedding still verifies the voice. The level of impostors is the aim, as in
"Forget who you Forgot" (GUARD), arXiv 2609.27399, not the lowest similarity.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from speechforget.attacks.base import NO_SPEAKERS, Rows, Subject
from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import Value, missing

Vectors = NDArray[np.float64]

NAMES = ("verification_eer", "verification_rank1", "verification_rank1_impostors")


class Verification:
    """Score pairs of utterances by the cosine of their embeddings, minus the mean embedding of other speakers.

    most: utterances of the forgotten speakers, and of the others, drawn by the seed where there are more.
    """

    def __init__(self, *, most: int = 1000) -> None:
        self.most = most

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Verify and identify forgotten speakers by the embedding; forgotten are those without utterances in retain.

        Explanation:
            values: verification_eer, verification_rank1, verification_rank1_impostors
            meaning: Whether the model still knows a voice, whatever its outputs say. eer: how badly pairs of one
                forgotten speaker are told from pairs of two speakers. rank1: how often the nearest voice of a gallery
                is the right one; impostors: the same for voices that nobody asked to forget.
            formula: cosine of embeddings minus the mean embedding of others. eer: rate at which accepted impostors
                equal rejected targets; rank1: share of utterances of forget whose nearest speaker mean, of the
                other half of all utterances, is their own.
            unit: shares in [0, 1]; eer 0: without error, 0.5: not at all, no interval; rank1: 95 % Wilson interval.
            aim: the oracle's value, and for rank1 the level of impostors: any model tells voices that it never heard.
            fooled by: few speakers in the gallery; recording conditions that differ between speakers.
            source: after GUARD, arXiv 2609.27399.
        """
        speakers = subject.speakers
        if speakers is None:
            return dict.fromkeys(NAMES, missing(NO_SPEAKERS))
        if not subject.forgotten_speakers:
            return dict.fromkeys(NAMES, missing("the request forgets no speaker whole"))
        forgotten = np.isin(speakers, subject.forgotten_speakers)
        ours = subject.drawn(
            subject.rows["forget"][forgotten[subject.rows["forget"]]], self.most, "verification", "ours"
        )
        unheard = subject.unheard
        others = subject.drawn(
            unheard[~forgotten[unheard] & (speakers[unheard] != "")], self.most, "verification", "others"
        )
        if not len(others):
            return dict.fromkeys(NAMES, missing("holdout and test have no utterance of another speaker"))
        rows = np.concatenate([ours, others])
        embedding = subject.outputs(rows).embedding.astype(np.float64)
        vectors = unit(embedding - embedding[len(ours) :].mean(0))
        return {
            "verification_eer": _trials(subject, vectors[: len(ours)], vectors[len(ours) :], ours, speakers),
            **_ranks(subject, vectors, rows, len(ours), speakers),
        }


def unit(vectors: Vectors) -> Vectors:
    """Scale vectors (n, d) to length 1; a vector of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _trials(subject: Subject, ours: Vectors, others: Vectors, rows: Rows, speakers: NDArray[np.str_]) -> Value:
    same = speakers[rows][:, None] == speakers[rows][None, :]
    distinct = subject.units[rows][:, None] != subject.units[rows][None, :]
    targets = (ours @ ours.T)[np.triu(same & distinct, 1)]
    if not len(targets):
        return missing("no forgotten speaker has two distinct utterances")
    return Value(equal_error_rate(targets, (ours @ others.T).ravel()), math.nan, math.nan, len(rows))


def equal_error_rate(targets: Vectors, impostors: Vectors) -> float:
    """Compute the rate at which the share of accepted impostors equals the share of rejected targets, in [0, 1].

    A score at or above the threshold is accepted. Between two thresholds both shares are interpolated linearly.
    """
    thresholds = np.unique(np.concatenate([targets, impostors]))
    rejected = np.append(np.searchsorted(np.sort(targets), thresholds, "left"), len(targets)) / len(targets)
    accepted = 1 - np.append(np.searchsorted(np.sort(impostors), thresholds, "left"), len(impostors)) / len(impostors)
    gap = rejected - accepted  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(rejected[after - 1] + share * (rejected[after] - rejected[after - 1]))


def _ranks(subject: Subject, vectors: Vectors, rows: Rows, count: int, speakers: NDArray[np.str_]) -> dict[str, Value]:
    """Identify the speakers of half of the utterances by the other half. rows: `count` of forget, then others."""
    enrolled = _halves(subject, rows, speakers)
    numbers = np.unique(speakers[rows], return_inverse=True)[1]
    gallery = np.unique(numbers[enrolled])
    means = unit(np.stack([vectors[enrolled & (numbers == number)].mean(0) for number in gallery]))
    nearest = gallery[(vectors @ means.T).argmax(1)]
    judged = ~enrolled & np.isin(numbers, gallery)
    ours = np.arange(len(rows)) < count
    values = {}
    for name, mask in ((NAMES[1], judged & ours), (NAMES[2], judged & ~ours)):
        known = mask.any() and len(gallery) > 1
        reason = "there are too few utterances for a gallery of two speakers"
        values[name] = share(nearest[mask] == numbers[mask]) if known else missing(reason)
    return values


def _halves(subject: Subject, rows: Rows, speakers: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Mark half of the distinct utterances of each speaker, rounded down; copies stay together."""
    enrolled = np.zeros(len(rows), dtype=np.bool_)
    for name in np.unique(speakers[rows]):
        mine = np.flatnonzero(speakers[rows] == name)
        units = np.unique(subject.units[rows[mine]])
        drawn = subject.drawn(units, len(units) // 2, "verification", "gallery")
        enrolled[mine] = np.isin(subject.units[rows[mine]], drawn)
    return enrolled
