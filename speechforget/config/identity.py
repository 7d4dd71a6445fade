"""What a result is about, whatever the seeds: by this a report knows which results may be averaged, and says how others differ.

The identity of an artefact is its inputs (see docs/identity.md) without the three seeds. Parents enter by their own identities instead of their
keys, and what a seed draws (which utterances are forgotten, which voices speak) by what it was drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget.store import canonical, code_hash, key_of

SEEDS = ("seed", "split_seed")  # among inputs
IDS_OF_UTTERANCES = ("without", "forgotten", "request", "nonmembers", "classes")  # inputs that hang on what seeds draw
NO_NUMBERS = (
    "seed",
    "lock",
    "download",
    "complete",
    "test_root",
)  # of a corpus: places and manners, or seen in its fingerprint
DIGITS = 16  # of an identity


@dataclass(frozen=True)
class Identity:
    """digest: equal where inputs differ in seeds alone. facts: flat, readable inputs, those of parents under the parent's name."""

    digest: str
    facts: Mapping[str, Any]


def identity_of(
    stage: str, inputs: Mapping[str, Any], parents: Mapping[str, Identity], corpus: Mapping[str, Any]
) -> Identity:
    """Of one artefact. parents: by key. corpus: what stands for the fingerprint of the recordings, see `corpus_facts`."""
    tree: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in SEEDS:
            continue
        steady = bool(value) if name in IDS_OF_UTTERANCES else corpus if name == "corpus" else value
        tree[name] = _replaced(steady, parents)
        if isinstance(steady, str) and steady in parents:
            facts |= {f"{name}.{place}": fact for place, fact in parents[steady].facts.items()}
        else:
            facts |= flat({name: tree[name]})
    return Identity(key_of(stage, tree)[:DIGITS], facts)


def _replaced(value: Any, parents: Mapping[str, Identity]) -> Any:
    """Keys of parents anywhere below as their identities."""
    if isinstance(value, Mapping):
        return {name: _replaced(each, parents) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(each, parents) for each in value]
    return parents[value].digest if isinstance(value, str) and value in parents else value


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted name -> value; a list counts as one value, and what is not set is left out."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = canonical(value)
    return found


def models_facts(
    made: Mapping[str, tuple[str, Mapping[str, Any]]], corpus: Mapping[str, Any], scores: Mapping[str, str]
) -> dict[str, Any]:
    """Digest and facts of original, oracle and unlearned model, null for one that there is not.

    made: key of each artefact -> its stage and inputs, parents first. scores: of the models that there are, the keys of their scores. Of the
    unlearned model the facts of its original are left out, as they stand beside it.
    """
    known: dict[str, Identity] = {}
    for key, (stage, inputs) in made.items():
        known[key] = identity_of(stage, inputs, known, corpus)

    def told(found: Identity) -> dict[str, Any]:
        facts = {name: fact for name, fact in found.facts.items() if not name.startswith("model.original.")}
        return {"digest": found.digest, "facts": facts}

    return {
        model: told(known[scores[model]]) if model in scores else None for model in ("original", "oracle", "unlearned")
    }


def corpus_facts(dataset: Mapping[str, Any], steady: str) -> dict[str, Any]:
    """What stands for a corpus of which a seed may have drawn subsets, or more. steady: the fingerprint of what no seed decides (`Audio.steady`)."""
    held = dataset["corpus"]
    options = {name: value for name, value in held.items() if name not in {*NO_NUMBERS, "_target_"}}
    seed = {} if held.get("seed", dataset["split_seed"]) == dataset["split_seed"] else {"corpus_seed": held["seed"]}
    return {"recordings": steady, "code": code_hash(held["_target_"]), **options, **seed}


def request_facts(task: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked to be forgotten, without the seed that draws it. A list of ids is its content, wherever the file lies."""
    facts = {name: _sorted(value) for name, value in task.items() if name != "seed" and value is not None}
    if task.get("by") == "ids":
        lines = Path(str(task["ids"])).expanduser().read_text(encoding="utf-8-sig").splitlines()
        facts["ids"] = key_of("ids", {"ids": sorted({line.strip() for line in lines} - {""})})
    return {**facts, "code": code_hash("speechforget.data.requests.select")}


def _sorted(value: Any) -> Any:
    return (
        sorted(map(str, value))
        if isinstance(value, (list, tuple)) and any(isinstance(each, str) for each in value)
        else value
    )


def metric_facts(version: int, paths: list[str]) -> dict[str, Any]:
    """The code of every metric."""
    return {"version": version, **{path: code_hash(path) for path in paths}}
