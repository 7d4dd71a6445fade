"""Charts of what is known about the models: relearning, layers, confusion of forgotten classes, words and speakers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.groups import FEWEST
from speechforget.report.charts.scene import Chart, Scene, nothing, rows

SHOTS = re.compile(r"relearn_(\d+)_final")
LAYER = re.compile(r"probe_(label_forget|label|membership|speaker|attribute)_(?!(?:forget_)?(?:max|nats)$)(.+)")
QUESTIONS = {"label_forget": "label of forget", "label": "label", "membership": "membership"}
QUESTIONS |= {"speaker": "voice", "attribute": "attribute"}
MOST_GROUPS = 20  # bars of words, or of speakers
MOST_CONFUSED = 12  # columns of the confusion
MOST_IN_MATRIX = 40  # classes of a whole matrix
ROUNDING = 0.01  # percent
FULL = "run with evaluation=full"


def relearning(scene: Scene) -> Chart:
    """Follow the accuracy on the rest of forget over the number of utterances that each model learns again."""
    finals = {int(found[1]): name for name in scene.comparison["unlearned"] if (found := SHOTS.fullmatch(name))}
    if not finals:
        return nothing(f"No model was made to learn again: {FULL}.")
    finals[0] = "accuracy_forget"

    def values() -> Iterator[tuple[object, ...]]:
        for model in scene.models:
            for shots, name in sorted(finals.items()):
                entry = scene.comparison[model].get(name) or {}
                if entry.get("value") is not None:
                    band = [_percent(entry.get(end)) for end in ("null_low", "null_high")]
                    yield model, shots, _percent(entry["value"]), *(band if model == "oracle" else (None, None))

    curves = list(values())
    if not any(row[1] for row in curves):
        return nothing("Forget has too few recordings to learn some again and test the rest.")
    return rows(("model", "shots", "accuracy", "low", "high"), curves)


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * float(value)


def layers(scene: Scene) -> Chart:
    """List what probes find in each layer of original and unlearned model, minus what they find in the oracle."""
    if "oracle" not in scene.models:
        return nothing("There is no oracle to subtract.")

    def values() -> Iterator[tuple[object, ...]]:
        for model in ("original", "unlearned"):
            for name, entry in scene.comparison[model].items():
                if (found := LAYER.fullmatch(name)) and entry.get("gap") is not None:
                    low, high = _centred(scene.comparison["oracle"][name])
                    yield model, QUESTIONS[found[1]], found[2], 100 * entry["gap"], low, high

    columns, gaps = ("model", "question", "layer", "gap", "low", "high"), list(values())
    return rows(columns, gaps) if gaps else nothing(_why_no_probe(scene))


def _why_no_probe(scene: Scene) -> str:
    reasons = [
        entry["reason"]
        for name, entry in scene.comparison["unlearned"].items()
        if LAYER.fullmatch(name) and entry.get("reason")
    ]
    return f"No probe gave a number: {reasons[0]}." if reasons else f"No layer was probed: {FULL}."


def _centred(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the range of the oracles around the first one, in points."""
    if entry.get("null_low") is None or entry.get("value") is None:
        return None, None
    return 100 * (entry["null_low"] - entry["value"]), 100 * (entry["null_high"] - entry["value"])


def confusion(scene: Scene) -> Chart:
    """Count for what the models take recordings of forgotten classes that no model heard."""
    if not scene.tables.forgotten:
        return nothing("The request names no whole class.")
    mask = scene.tables.subsets()["test_forgotten"]
    if not mask.any():
        return nothing("The test subset holds no recording of the forgotten classes.")
    label = scene.tables.original.label[mask]

    def values() -> Iterator[tuple[object, ...]]:
        predicted = {model: scene.tables.of(model).predicted[mask] for model in scene.models}
        common = np.bincount(np.concatenate(list(predicted.values())), minlength=len(scene.classes))
        shown = set(np.argsort(-common, kind="stable")[:MOST_CONFUSED].tolist()) | set(scene.tables.forgotten)
        for model, found in predicted.items():
            for true in np.unique(label):
                counts = np.bincount(found[label == true], minlength=len(scene.classes))
                shares = 100 * counts / counts.sum()
                for number in sorted(shown):
                    yield model, scene.classes[true], scene.classes[number], shares[number]
                rest = shares.sum() - sum(shares[number] for number in shown)
                if rest > ROUNDING:
                    yield model, scene.classes[true], "any other", rest

    return rows(("model", "true", "predicted", "share"), values())


def confusion_matrix(scene: Scene, model: str) -> Chart:
    """Count for what a model takes the test recordings of each class; classes that it rarely confuses are joined."""
    if scene.tables.original.errors is not None:
        return nothing("Transcripts have no classes.")
    subsets = scene.tables.subsets()
    mask = subsets["test"] | subsets["test_forgotten"]
    if not mask.any():
        return nothing("There is no test subset.")
    scores, outputs = scene.tables.of(model), len(scene.classes)
    counts = np.zeros((outputs, outputs), dtype=np.int64)
    np.add.at(counts, (scores.label[mask], scores.predicted[mask]), 1)
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    errors[list(scene.tables.forgotten)] = errors.max() + 1
    kept = sorted(np.argsort(-errors, kind="stable")[:MOST_IN_MATRIX].tolist())
    place = np.full(outputs, len(kept))
    place[kept] = np.arange(len(kept))
    names = [scene.classes[number] for number in kept] + (["any other"] if len(kept) < outputs else [])
    joined = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(joined, (place[:, None], place[None, :]), counts)
    cells = ((true, found, joined[row, column]) for row, true in enumerate(names) for column, found in enumerate(names))
    return rows(("actual", "predicted", "count"), cells)


def words(scene: Scene) -> Chart:
    """Compare the accuracy of each class with the oracle's, on the test recordings."""
    if scene.tables.original.errors is not None:
        return nothing("Transcripts have no classes.")
    names = np.array([*scene.classes])
    return _groups(scene, names[scene.tables.original.label])


def speakers(scene: Scene) -> Chart:
    """Compare the accuracy of each speaker with the oracle's, on the test recordings."""
    if scene.speakers is None:
        return nothing("The corpus, or its files at hand, names no speakers.")
    return _groups(scene, scene.speakers)


def _groups(scene: Scene, names: NDArray[np.str_]) -> Chart:
    """Compare groups in what stays: test, and retain where a group has too few test recordings."""
    if "oracle" not in scene.models:
        return nothing("There is no oracle to compare with.")
    subsets, found = scene.tables.subsets(), []
    right = {model: scene.tables.of(model).right for model in scene.models}
    for name in np.unique(names[names != ""]):
        for subset in ("test", "retain"):
            mine = subsets[subset] & (names == name)
            if mine.sum() >= FEWEST:
                unlearned, oracle = (100 * right[model][mine].mean() for model in ("unlearned", "oracle"))
                found.append((name, subset, unlearned, oracle, unlearned - oracle, int(mine.sum())))
                break
    if not found:
        return nothing(f"No group has {FEWEST} recordings that stay.")
    found.sort(key=lambda row: row[4])
    note = f"The {MOST_GROUPS} of {len(found)} groups that lost most." if len(found) > MOST_GROUPS else ""
    columns = ("name", "subset", "unlearned", "oracle", "gap", "count")
    return rows(columns, found[:MOST_GROUPS], note)
