"""Say what of an unlearned model is exact or certified: what was trained again, whether it is the oracle, a bound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.config.structured import SISA, rewinds, rewound_to
from speechforget.store import Artefact, read_done, verified
from speechforget.store.names import CERTIFICATE


class Exactness(NamedTuple):
    """Say what is exact. notes: sentences for every table. shown: what shows it in a record; None if nothing does."""

    notes: list[str]
    shown: str | None = None


def exactness(config: Mapping[str, Any], models: Mapping[str, Artefact]) -> Exactness:
    """Tell what is exact for methods that train again by the recipe, or state a bound; nothing for other methods."""
    if "unlearned" not in models:
        return Exactness([])
    unlearned = models["unlearned"].folder
    if (unlearned / CERTIFICATE).exists():
        stated = json.loads(verified(unlearned, CERTIFICATE).read_text(encoding="utf-8"))
        return Exactness([_certified(stated)])  # not shown in a record: its readers see the seed that made the noise
    compared = [_compared(unlearned, models["oracle"].folder)] if "oracle" in models else []
    if str(config["method"]["_target_"]) == SISA:
        return Exactness([_retrained(unlearned), *compared], "all shards that held the request, trained again without")
    if rewinds(config):
        done = rewound_to(config)
        told = "all epochs, made again without the request" if done == 0 else None
        return Exactness([_rewound(done, int(config["train"]["epochs"])), *compared], told)
    return Exactness([])


def _retrained(folder: Path) -> str:
    record = json.loads(verified(folder, "sisa.json").read_text(encoding="utf-8"))
    shards = [told for told in record["shards"] if any(told["utterances"])]
    again, slices = sum(len(told["trained"]) for told in shards), sum(len(told["digests"]) for told in shards)
    changed, gone = sum(bool(told["trained"]) for told in shards), len(record["shards"]) - len(shards)
    left = f" {gone} more left the ensemble, as no utterance is left in them." if gone else ""
    return (
        f"Exact by construction: {again} of {slices} slices, in {changed} of {len(shards)} shards, were trained again "
        f"without the request; the others never held any of it.{left}"
    )


def _certified(stated: Mapping[str, Any]) -> str:
    return (
        f"Certified (eps {stated['epsilon']:g}, delta {stated['delta']:g}) for the weights, for whoever neither knows "
        f"nor guesses the seed, by noise of standard deviation {stated['sigma']:.3g} in each of {stated['steps']} "
        "steps. The price is what accuracy on retain and on test lost against the original; pre-training and copies "
        "are not covered."
    )


def _rewound(done: int, epochs: int) -> str:
    if done == 0:
        return "Exact by construction: the whole training of the original was made again, without the request."
    return (
        f"Not exact: the model was trained on retain from the original after {done} of {epochs} epochs, which had "
        "seen the request until then."
    )


def _compared(unlearned: Path, oracle: Path) -> str:
    hashes = [_hash(folder) for folder in (unlearned, oracle)]
    if hashes[0] == hashes[1]:
        return "The weights of the unlearned model are those of the oracle, to the bit."
    return "The weights of the unlearned model are not those of the oracle, to the bit."


def _hash(folder: Path) -> str:
    record = read_done(folder)
    return "" if record is None else str(record["files"]["weights.safetensors"]["sha256"])
