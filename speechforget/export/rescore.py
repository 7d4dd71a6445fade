"""Compare what a compressed model remembers with the model that it was made of: compression can undo forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.config.inputs import metrics_in
from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import Mask, Scores, Tables
from speechforget.export.corpus import Corpus
from speechforget.export.source import Source, Unsupported
from speechforget.stages.compare import join
from speechforget.stages.joined import in_order
from speechforget.store import Artefact
from speechforget.store.graph import Node

SUBSETS = ("forget", "retain", "test", "test_forgotten")
FEWEST_SEPARATE = 1e-9  # an interval this narrow is one point


def tables_of(source: Source, corpus: Corpus) -> Tables:
    """Join the stored score tables of a result with its request. Raises Unsupported if one is missing."""
    by_key = {node.key: node for node in source.nodes if node.state == "done"}

    def artefacts(kind: str) -> dict[str, Artefact]:
        return {name: _artefact(by_key, f"{kind} of the {name}", key) for name, key in in_order(source.inputs[kind])}

    drawn = source.inputs.get("untrained")
    untrained = None if drawn is None else _artefact(by_key, "scores of models of random weights", drawn)
    seed = int(source.config["seed"])
    return join(corpus.data, corpus.request, artefacts("models"), artefacts("scores"), seed, untrained)


def _artefact(by_key: Mapping[str | None, Node], what: str, key: str) -> Artefact:
    if key not in by_key:
        raise Unsupported(f"the {what} are missing beside the result")
    return Artefact(by_key[key].folder, key, built=False)


def rescored(source: Source, corpus: Corpus, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Compare the scores of a compressed model with those of the exported model.

    columns: logits, loss and embedding of every recording. Returns `numbers` (name -> float, int8, oracle, original:
    value with interval), `moved` (sentences about numbers outside the interval of the exported model), `agreement`
    (share of recordings with the same answer) and `not_measured` (name -> reason).
    """
    tables = tables_of(source, corpus)
    before = tables.of(source.model.name)
    kept = np.setdiff1d(np.arange(len(corpus.data.table)), corpus.request.withdrawn)
    logits, loss, embedding = (columns[name][kept] for name in ("logits", "loss", "embedding"))
    after = replace(before, logits=logits, loss=loss, embedding=embedding)
    found = compare(replace(tables, unlearned=after), metrics_in(source.config["evaluation"]))["unlearned"]
    recorded = source.record["comparison"]
    numbers = {
        name: _beside(recorded, source.model.name, name, entry)
        for name, entry in found.items()
        if name != "seconds" and entry["value"] is not None
    }
    numbers |= _losses(tables, before, after)
    return {
        "numbers": numbers,
        "moved": [sentence for name, one in numbers.items() if (sentence := _moved(name, one))],
        "agreement": float((before.predicted == after.predicted).mean()),
        "not_measured": _not_measured(recorded[source.model.name], found),
    }


def _beside(recorded: Mapping[str, Any], model: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    floats, oracle, original = (_numbers(recorded[one].get(name) or {}) for one in (model, "oracle", "original"))
    return {"float": floats, "int8": _numbers(entry), "oracle": oracle, "original": original}


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry.get(key) for key in ("value", "low", "high", "count")}


def _losses(tables: Tables, before: Scores, after: Scores) -> dict[str, Any]:
    """Return the mean cross-entropy in nats of each subset that has utterances."""
    oracle = tables.oracle if tables.oracles else None
    models = {"float": before, "int8": after, "oracle": oracle, "original": tables.original}
    return {
        f"loss_{name}": {kind: _mean_loss(scores, mask) for kind, scores in models.items()}
        for name, mask in tables.subsets().items()
        if name in SUBSETS and mask.any()
    }


def _mean_loss(scores: Scores | None, mask: Mask) -> dict[str, Any]:
    value = None if scores is None else float(scores.loss[mask].mean())
    return {"value": value, "low": None, "high": None, "count": int(mask.sum())}


def _moved(name: str, one: Mapping[str, Any]) -> str | None:
    """Say if a number left the interval that it had before; None if it did not, or had none."""
    low, high, value = one["float"].get("low"), one["float"].get("high"), one["int8"]["value"]
    if low is None or high is None or high - low < FEWEST_SEPARATE or low <= value <= high:
        return None
    return f"{name} is {value:.4g} after quantisation, outside of {low:.4g} to {high:.4g}, its interval before"


def _not_measured(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str]:
    """Name the numbers of the exported model that were not measured again."""
    attack = "an attack on the model itself, which was not run on the quantised model"
    lacking = {name: attack for name, entry in recorded.items() if name not in found and entry["value"] is not None}
    audit = "an audit judges the method by models for other requests, and none of these were quantised"
    return {**lacking, "audit": audit}
