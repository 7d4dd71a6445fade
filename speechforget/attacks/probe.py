"""Linear probes of every layer: is the forgotten label, the membership or the voice still in the features?

After "An Information Theoretic Evaluation Metric for Strong Unlearning" (IDI), AAAI 2026, arXiv 2405.17878. It bounds
the mutual information of layers and the forgotten label by a contrastive estimate; we use cross-fitted logistic
regression, which is cheaper and bounds it, too. Only the difference to the oracle's probes tells something, because a
layer of any model separates words that it never learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechforget.attacks.base import NO_SPEAKERS, PREFIX, Rows, Subject
from speechforget.attacks.common.cross_fit import Fitted, area, balanced_accuracy, cross_fit, folds_of, information
from speechforget.attacks.common.layers import Features, layer_features
from speechforget.config.ranges import number, whole
from speechforget.evaluation.tables import Value, missing
from speechforget.seeding import order

Mask = NDArray[np.bool_]

UNHEARD = "no probe had both classes to learn and to judge: there are too few groups of utterances"


@dataclass(frozen=True)
class Question:
    """One thing that probes are asked.

    rows: utterances. target: their classes from 0. groups: kept whole in a fold. fitted: those that fit probes.
    values: name -> how it is computed from fitted probes. informed: the utterances of the information bound. strata: by
    which the classes were matched, see `cross_fit`.
    """

    rows: Rows
    target: Rows
    groups: Rows
    fitted: Mask
    values: dict[str, Callable[[Fitted], Value]]
    informed: Mask
    strata: Rows | None = None


class Probe:
    """Fit logistic regressions on the standardised outputs of each layer, averaged over time.

    folds: of the cross-fitting. strength: sklearn's C. most: utterances of each side of a question, voices: speakers
    that are told apart; both are drawn by the seed where there are more.
    """

    def __init__(self, *, folds: int = 5, strength: float = 0.1, most: int = 500, voices: int = 30) -> None:
        whole({"folds": folds}, "folds", 2, PREFIX)
        whole({"voices": voices}, "voices", 2, PREFIX)
        number({"strength": strength}, "strength", 1e-9, 1e9, PREFIX)
        self.folds, self.strength, self.most, self.voices = folds, strength, most, voices

    def __call__(self, subject: Subject) -> dict[str, Value]:
        """Compute what linear probes of every layer find of the label, the membership and the voice.

        Speakers, where known, are kept whole in a fold of the membership probe, and the mean of each label is
        subtracted, as non-members match the labels of forget.

        Explanation:
            values: probe_label_<layer>, probe_label_forget_<layer>, probe_membership_<layer>, probe_speaker_<layer>,
                probe_attribute_<layer>, probe_<question>_max, probe_<question>_nats
            meaning: Whether a simple classifier can read from a layer what the outputs no longer say. label: the
                forgotten class among holdout and test utterances; label_forget: the same probe for forget itself;
                membership: forget against non-members; speaker: who of the forgotten speakers spoke; attribute (only
                for task=attribute): its value in holdout and test utterances of speakers that the probe does not know,
                beyond what the label says. A new head on old features hides nothing from it.
            formula: cross-fitted logistic regression on standardised features, averaged over time: AUC (label,
                membership) or balanced accuracy (speaker, attribute) on utterances that it was not fitted on, whose
                speakers are in one fold each (membership, attribute); the mean of each label is subtracted in both;
                max: the largest of all layers; nats: the largest H(Y) - cross-entropy, a lower bound of the mutual
                information.
            unit: shares in [0, 1]; nats for nats; max and nats have no interval.
            aim: the oracle's value: layers of any model separate words that it never learned.
            fooled by: the largest of many layers, which is high by chance alone; information that is not linear; few
                utterances.
            source: after IDI, AAAI 2026, arXiv 2405.17878, with probes in place of its contrastive estimate.
        """
        questions = {"label": self._label(subject), "membership": self._membership(subject)}
        questions["speaker"] = self._speaker(subject)
        if subject.attribute is not None:
            questions["attribute"] = self._attribute(subject, subject.attribute)
        asked = [question.rows for question in questions.values() if isinstance(question, Question)]
        rows = np.unique(np.concatenate([*asked, subject.rows["forget"][:1]]))
        features = layer_features(subject, rows)
        values: dict[str, Value] = {}
        for what, question in questions.items():
            if isinstance(question, Question):
                places = np.searchsorted(rows, question.rows)
                layers = {layer: found[places] for layer, found in features.items()}
                values |= self._answers(what, question, layers, subject.seed)
            else:
                whats = ("label", "label_forget") if what == "label" else (what,)
                names = [f"probe_{name}_{layer}" for name in whats for layer in (*features, "max")]
                values |= dict.fromkeys([*names, f"probe_{what}_nats"], missing(question))
        return values

    def _label(self, subject: Subject) -> Question | str:
        if not subject.forgotten:
            return "the request forgets no class"
        gone = np.isin(subject.labels, subject.forgotten)
        positives = subject.drawn(subject.unheard[gone[subject.unheard]], self.most, "probe", "positives")
        negatives = subject.drawn(subject.unheard[~gone[subject.unheard]], self.most, "probe", "negatives")
        forget = subject.drawn(subject.rows["forget"], self.most, "probe", "forget")
        if min(len(positives), len(negatives)) < self.folds:
            return f"holdout and test have fewer than {self.folds} utterances of a side"
        rows = np.concatenate([positives, negatives, forget])
        sides = np.repeat([0, 1, 2], [len(positives), len(negatives), len(forget)])
        values = {
            "label": lambda fitted: area(fitted, sides == 0, sides == 1),
            "label_forget": lambda fitted: area(fitted, sides == 2, sides == 1),
        }
        return Question(
            rows, (sides != 1).astype(np.int64), subject.units[rows], sides != 2, values, informed=sides != 2
        )

    def _membership(self, subject: Subject) -> Question | str:
        forget = subject.drawn(subject.rows["forget"], self.most, "probe", "forget")
        nonmembers = subject.drawn(subject.rows["nonmembers"], self.most, "probe", "nonmembers")
        if not len(nonmembers):
            return "there are no non-members"
        if min(len(forget), len(nonmembers)) < self.folds:
            return f"there are fewer than {self.folds} utterances of forget or of non-members"
        rows = np.concatenate([forget, nonmembers])
        target = np.repeat([1, 0], [len(forget), len(nonmembers)])
        everyone = np.ones(len(rows), dtype=np.bool_)
        groups = subject.units[rows] if subject.speakers is None else self._voices(subject, rows)
        values = {"membership": lambda fitted: area(fitted, target == 1, target == 0)}
        return Question(rows, target, groups, everyone, values, everyone, subject.labels[rows])

    def _attribute(self, subject: Subject, values: NDArray[np.str_]) -> Question | str:
        """Ask for the value; speakers are kept whole in a fold, unless they are the values."""
        known = subject.unheard[values[subject.unheard] != ""]
        names = np.unique(values[known])
        most = max(1, 2 * self.most // max(len(names), 1))
        parts = [subject.drawn(known[values[known] == name], most, "probe", "attribute") for name in names]
        if len(names) < 2 or min(map(len, parts)) < self.folds:
            return f"holdout and test lack two values with {self.folds} utterances each"
        rows = np.concatenate(parts)
        target = np.repeat(np.arange(len(parts)), list(map(len, parts)))
        everyone = np.ones(len(rows), dtype=np.bool_)
        own = subject.speakers is None or np.array_equal(subject.speakers, values)
        groups = subject.units[rows] if own else self._voices(subject, rows)
        asked = {"attribute": lambda fitted: balanced_accuracy(fitted, target, everyone)}
        return Question(rows, target, groups, everyone, asked, everyone, subject.labels[rows])

    def _voices(self, subject: Subject, rows: Rows) -> Rows:
        """Return groups of speakers; an utterance of an unknown speaker, or all if there is one, by exact copies."""
        assert subject.speakers is not None
        voices = subject.speakers[rows]
        if len(set(voices) - {""}) < 2:
            return subject.units[rows]
        units = np.char.add("unit ", subject.units[rows].astype(str))
        return np.unique(np.where(voices == "", units, voices), return_inverse=True)[1]

    def _speaker(self, subject: Subject) -> Question | str:
        if subject.speakers is None:
            return NO_SPEAKERS
        if subject.label == "speaker":
            return "the classifier predicts the speaker: see the probe of the label"
        rows = self._chosen(subject)
        names, target = np.unique(subject.speakers[rows], return_inverse=True)
        judged = np.isin(rows, subject.rows["forget"])
        if len(names) < 2 or not judged.any():
            return "forget and holdout have fewer than two speakers with two utterances"
        everyone = np.ones(len(rows), dtype=np.bool_)
        values = {"speaker": lambda fitted: balanced_accuracy(fitted, target, judged)}
        return Question(rows, target, subject.units[rows], everyone, values, judged)

    def _chosen(self, subject: Subject) -> Rows:
        """Return the utterances of forget and holdout by at most `voices` speakers, those of forget first."""
        assert subject.speakers is not None
        forget, others = subject.rows["forget"], subject.rows["holdout"]
        spoken, counts = np.unique(subject.speakers[np.concatenate([forget, others])], return_counts=True)
        able = np.flatnonzero((spoken != "") & (counts >= 2))
        drawn = order(able, subject.seed, "probe", "voices")
        first = np.isin(spoken[drawn], subject.speakers[forget])
        chosen = spoken[np.concatenate([drawn[first], drawn[~first]])[: self.voices]]
        parts = [rows[np.isin(subject.speakers[rows], chosen)] for rows in (forget, others)]
        return np.concatenate([subject.drawn(rows, self.most, "probe", "speaker") for rows in parts])

    def _answers(self, what: str, question: Question, layers: dict[str, Features], seed: int) -> dict[str, Value]:
        fold = folds_of(question.target, question.groups, self.folds, seed)
        found: dict[str, dict[str, Value]] = {name: {} for name in question.values}
        bounds = []
        for layer, features in layers.items():
            fitted = cross_fit(features, question.target, fold, question.fitted, self.strength, question.strata)
            for name, value in question.values.items():
                computed = value(fitted)
                found[name][layer] = computed if computed.count else missing(UNHEARD)
            bounds.append(information(fitted, question.target, question.informed))
        values: dict[str, Value] = {}
        for name, by_layer in found.items():
            values |= {f"probe_{name}_{layer}": value for layer, value in by_layer.items()}
            values[f"probe_{name}_max"] = _largest([value.value for value in by_layer.values()], by_layer)
        values[f"probe_{what}_nats"] = _largest(bounds, found[what])
        return values


def _largest(numbers: list[float], by_layer: dict[str, Value]) -> Value:
    """Return the largest number without an interval."""
    known = [number for number in numbers if math.isfinite(number)]
    count = max(value.count for value in by_layer.values())
    return Value(max(known), math.nan, math.nan, count) if known else missing(UNHEARD)
