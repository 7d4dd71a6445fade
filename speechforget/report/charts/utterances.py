"""Charts with one mark, or one count, for each utterance: losses, margins, the attack, and the embedding map."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.attack_features import probabilities
from speechforget.evaluation.audit.attack_scores import margin
from speechforget.evaluation.intervals import clopper_pearson
from speechforget.evaluation.tables import Scores
from speechforget.report.charts.scene import Chart, Scene, nothing, rows, thinned

BINS = 24  # of a histogram
SMALLEST, LARGEST = 1e-6, 1e3  # nats; losses outside are counted at the edges
POINTS = 60  # of a ROC curve
MOST = 500  # forget utterances of the drill-down
MOST_MAPPED = 120  # utterances of each group on the map
WORST = 0.05  # share of forget utterances that is marked
GROUPS = ("forget", "holdout", "retain")
NO_NONMEMBERS = "No holdout recording matches the request, so there is nothing to compare the forgotten with."

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


def groups(scene: Scene) -> dict[str, Rows]:
    """Return the rows of forget, of the holdout recordings that match it, and of retain."""
    subsets = scene.tables.subsets()
    masks = {"forget": subsets["forget"], "holdout": subsets["nonmembers"], "retain": subsets["retain"]}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def losses(scene: Scene) -> Chart:
    """Count the losses of each group under each model, on shared bins of equal width in the logarithm."""
    chosen = groups(scene)
    found = {
        (model, group): np.clip(scene.tables.of(model).loss[members], SMALLEST, LARGEST)
        for model in scene.models
        for group, members in chosen.items()
        if len(members)
    }
    everything = np.concatenate(list(found.values()))
    edges = np.geomspace(everything.min() * 0.999, max(everything.max(), everything.min() * 10) * 1.001, BINS + 1)

    def values() -> Iterator[tuple[object, ...]]:
        for (model, group), loss in found.items():
            counts = np.histogram(loss, edges)[0]
            for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
                yield model, group, left, right, 100 * count / len(loss)

    return rows(("model", "group", "from", "to", "share"), values())


def attack_curve(scene: Scene) -> Chart:
    """Draw the attack on the loss: true positives against false ones, with exact 95 % intervals of the former."""
    chosen = groups(scene)
    if not len(chosen["holdout"]):
        return nothing(NO_NONMEMBERS)

    def values() -> Iterator[tuple[object, ...]]:
        for model in scene.models:
            loss = scene.tables.of(model).loss
            members, others = loss[chosen["forget"]], np.sort(loss[chosen["holdout"]])
            below = np.unique(np.linspace(0, len(others), min(POINTS, len(others) + 1)).round().astype(int))
            for count in below:
                cut = -math.inf if count == 0 else math.inf if count == len(others) else others[count]
                hits = int((members < cut).sum())
                rate = int((others < cut).sum()) / len(others)
                yield model, rate, hits / len(members), *clopper_pearson(hits, len(members))

    return rows(("model", "false", "true", "low", "high"), values())


def utterances(scene: Scene) -> Chart:
    """Tell of each forget utterance what the models predict, what was known of it, what is left, and its attack score.

    margin: log-odds of the label in nats. known, left: margin of the original, and of the unlearned model, minus the
    mean margin of the oracles. score: share of the holdout utterances with a higher loss. worst: the 5 % with the most
    left.
    """
    chosen = groups(scene)
    every = chosen["forget"]
    margins = {model: _margins(scene.tables.of(model), every) for model in scene.models}
    aim = np.mean([_margins(oracle, every) for oracle in scene.tables.oracles] or [np.full(len(every), np.nan)], axis=0)
    left = margins["unlearned"] - (margins["original"] if np.isnan(aim).all() else aim)
    ordered = np.argsort(-left, kind="stable")
    worst = set(every[ordered[: math.ceil(WORST * len(every))]].tolist())
    kept = np.union1d(thinned(every, MOST, scene.names), np.array(sorted(worst), dtype=np.int64))
    place = {int(row): number for number, row in enumerate(every)}
    places = np.array([place[int(row)] for row in kept])
    loss = scene.tables.unlearned.loss
    others = np.sort(loss[chosen["holdout"]])
    higher = len(others) - np.searchsorted(others, loss[kept], side="right")
    columns: dict[str, list[object]] = {
        "name": list(scene.names[kept]),
        "label": [scene.classes[label] for label in scene.tables.original.label[kept]],
        **({} if scene.speakers is None else {"speaker": list(scene.speakers[kept])}),
        "worst": [int(row) in worst for row in kept],
        "known": list((margins["original"] - aim)[places]),
        "left": list((margins["unlearned"] - aim)[places]),
        "score": list(higher / len(others)) if len(others) else [None] * len(kept),
    }
    for model in scene.models:
        columns |= _predictions(scene, model, kept)
        columns[f"{model}_margin"] = list(margins[model][places])
    note = f"{len(kept)} of {len(every)} recordings, drawn by a hash, and the worst." if len(kept) < len(every) else ""
    return rows(tuple(columns), zip(*columns.values(), strict=True), note)


def _margins(scores: Scores, of: Rows) -> Floats:
    return margin(scores.logits[of], scores.label[of])


def _predictions(scene: Scene, model: str, of: Rows) -> dict[str, list[object]]:
    scores = scene.tables.of(model)
    likely = probabilities(scores.logits[of])
    return {
        f"{model}_predicted": [scene.classes[number] for number in likely.argmax(axis=1)],
        f"{model}_probability": list(likely[np.arange(len(of)), scores.label[of]]),
    }


def embedding_map(scene: Scene) -> Chart:
    """Project the embeddings of original and unlearned model on the two main axes of the original's."""
    from sklearn.decomposition import PCA

    chosen = {name: thinned(members, MOST_MAPPED, scene.names) for name, members in groups(scene).items()}
    every = np.concatenate(list(chosen.values()))
    known = np.asarray(scene.tables.original.embedding[every], dtype=np.float64)
    if known.shape[1] < 2:
        return nothing("The embedding has a single dimension, so there is no map.")
    axes = PCA(2, random_state=0).fit(known)

    def values() -> Iterator[tuple[object, ...]]:
        for model in ("original", "unlearned"):
            for group, members in chosen.items():
                if len(members):
                    for place in axes.transform(np.asarray(scene.tables.of(model).embedding[members], np.float64)):
                        yield model, group, *place

    share = 100 * axes.explained_variance_ratio_.sum()
    note = f"The two axes hold {share:.0f} % of the variance of the original. At most {MOST_MAPPED} of each group."
    return rows(("model", "group", "x", "y"), values(), note)
