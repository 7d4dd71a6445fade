"""Leakage of a forgotten class through its neighbour: the remaining class that the original confuses it with."""

from __future__ import annotations

import math

import numpy as np

from speechforget.evaluation.attack_features import probabilities
from speechforget.evaluation.divergence import Rows, jensen_shannon
from speechforget.evaluation.intervals import share
from speechforget.evaluation.tables import NOTHING, Mask, Scores, Tables, Value, chunks, missing

SAMPLES = "a sample request removes no class"


def class_mean(scores: Scores, mask: Mask, without: tuple[int, ...]) -> Rows:
    """Average the probabilities of some utterances, renormalised over the classes that are not in `without`, (K,)."""
    rows, total = np.flatnonzero(mask), np.zeros(scores.logits.shape[1])
    for part in chunks(len(rows), len(total)):
        logits = np.array(scores.logits[rows[part]], dtype=np.float64)
        logits[:, list(without)] = -1e9  # of probability 0, and finite
        total += probabilities(logits).sum(axis=0)
    return total / len(rows)


def neighbours(tables: Tables) -> dict[int, int]:
    """Find the neighbour of each forgotten class: the original's most probable remaining class on forget.

    The original chooses it on training utterances, so that no model is judged by its own choice.
    """
    label, forget = tables.original.label, tables.subsets()["forget"]
    return {
        lost: int(class_mean(tables.original, forget & (label == lost), tables.forgotten).argmax())
        for lost in tables.forgotten
        if (forget & (label == lost)).any()
    }


def neighbour_share(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the share of a forgotten class's utterances that the model calls by its neighbour's name.

    Explanation:
        values: neighbour_share_forget, neighbour_share_test_forgotten
        meaning: A model that never heard a word takes it for the word that sounds most alike. A method that pushes the
            word away from everything it resembles, or spreads it evenly, gives itself away: forgotten utterances land
            elsewhere than in the oracle. Result.json names each pair of classes.
        formula: for each forgotten class c its neighbour is the remaining class with the largest mean probability under
            the original on forget; value = P(prediction = neighbour of the label), over all K outputs.
        unit: a share in [0, 1] with a 95 % Wilson interval.
        aim: the oracle's value, which is often far from 0.
        fooled by: a model that still predicts the forgotten class (read accuracy_forget first); a class without a near
            neighbour. It is a reading of the attack's idea from its abstract, and not the attack itself.
        source: after MIA-NN of Ebrahimpour-Boroojeny, Wang & Sundaram, arXiv 2506.20893.
    """
    if not tables.forgotten:
        return dict.fromkeys(("neighbour_share_forget", "neighbour_share_test_forgotten"), missing(SAMPLES))
    pairs, scores, subsets = neighbours(tables), tables.of(model), tables.subsets()
    nearest = np.full(scores.logits.shape[1], -2)
    nearest[list(pairs)] = list(pairs.values())
    hits = scores.predicted == nearest[scores.label]
    names = tables.classes or tuple(f"class {number}" for number in range(len(nearest)))
    named = tuple(f"{names[lost]}: {names[near]}" for lost, near in pairs.items())
    return {
        f"neighbour_share_{subset}": share(hits[subsets[subset]])._replace(named=named)
        for subset in ("forget", "test_forgotten")
    }


def neighbour_divergence(tables: Tables, model: str) -> dict[str, Value]:
    """Compare what model and oracle make of a forgotten class among the remaining classes.

    Explanation:
        values: neighbour_js
        meaning: How far the model's mean answer to a forgotten class is from the oracle's, when both may only name
            remaining classes. It sees leakage that no accuracy shows: where the forgotten utterances went.
        formula: mean over forgotten classes of JS(mean p_oracle, mean p_model), p renormalised over remaining classes.
        unit: nats, at most log 2 = 0.69; no interval.
        aim: the value of another oracle in the model's place (null_low to null_high).
        fooled by: differences between any two trainings; errors of single utterances that cancel in the mean.
        source: after Ebrahimpour-Boroojeny, Wang & Sundaram, arXiv 2506.20893.
    """
    oracle, forget = tables.oracle, tables.subsets()["forget"]
    if not tables.forgotten:
        return {"neighbour_js": missing(SAMPLES)}
    masks = [forget & (oracle.label == lost) for lost in tables.forgotten]
    masks = [mask for mask in masks if mask.any()]
    if not masks:
        return {"neighbour_js": NOTHING}
    means = [
        [np.log(np.maximum(class_mean(one, mask, tables.forgotten), 1e-300)) for mask in masks]
        for one in (oracle, tables.of(model))
    ]
    value = float(jensen_shannon(np.array(means[0]), np.array(means[1])).mean())
    return {"neighbour_js": Value(value, math.nan, math.nan, int(sum(mask.sum() for mask in masks)))}
