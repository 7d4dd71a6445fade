"""The identity of a result: its inputs without seeds. Results of one identity may be averaged; see docs/identity.md.

The identity of an artefact is its inputs without the three seeds. A parent enters by its identity instead of its key.
A random draw (which utterances are forgotten, which voices speak) enters by what it was drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget.data.requests.options import counted
from speechforget.data.requests.past import read_earlier
from speechforget.store import canonical, code_hash, key_of

SEEDS = ("seed", "split_seed")  # among inputs
# Inputs that depend on random draws.
IDS_OF_UTTERANCES = ("without", "forgotten", "request", "nonmembers", "classes", "past")
# Options of a corpus that change no number, or that its fingerprint contains.
NO_NUMBERS = ("seed", "lock", "download", "complete", "test_root")
DIGITS = 16  # of an identity
CONTINUES = "continues"  # the model of an earlier run, in the inputs of an original


@dataclass(frozen=True)
class Identity:
    """Hold the identity of an artefact.

    digest: equal for inputs that differ only in seeds. facts: flat, readable inputs; those of a parent have its name as
    prefix.
    """

    digest: str
    facts: Mapping[str, Any]


def identity_of(
    stage: str, inputs: Mapping[str, Any], parents: Mapping[str, Identity], corpus: Mapping[str, Any]
) -> Identity:
    """Compute the identity of one artefact. parents: by key. corpus: replaces the fingerprint; see `corpus_facts`."""
    tree: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in SEEDS:
            continue
        steady = bool(value) if name in IDS_OF_UTTERANCES else corpus if name == "corpus" else value
        tree[name] = _replaced(steady, parents)
        if isinstance(steady, str) and steady in parents:
            if name == CONTINUES:  # its facts are those of another run
                facts[name] = parents[steady].digest
                continue
            facts |= {f"{name}.{path}": fact for path, fact in parents[steady].facts.items()}
        else:
            facts |= flat({name: tree[name]})
    return Identity(key_of(stage, tree)[:DIGITS], facts)


def _replaced(value: Any, parents: Mapping[str, Identity]) -> Any:
    """Replace the keys of parents, at any depth, by their identities."""
    if isinstance(value, Mapping):
        return {name: _replaced(each, parents) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(each, parents) for each in value]
    return parents[value].digest if isinstance(value, str) and value in parents else value


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted name -> value; a list is one value, and None is left out."""
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
    """Return digest and facts of original, oracle and unlearned model; None for a missing model.

    made: key of each artefact -> its stage and inputs, parents first. scores: model -> key of its scores, for the
    models that exist. The facts of the unlearned model leave out those of its original, which are listed separately.
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
    """Describe a corpus without what its seed draws, such as subsets.

    steady: the fingerprint of what no seed decides (`Audio.steady`).
    """
    held = dataset["corpus"]
    options = {name: value for name, value in held.items() if name not in {*NO_NUMBERS, "_target_"}}
    seed = {} if held.get("seed", dataset["split_seed"]) == dataset["split_seed"] else {"corpus_seed": held["seed"]}
    return {"recordings": steady, "code": code_hash(held["_target_"]), **options, **seed}


def request_facts(task: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a request without the seed that draws it. Lists enter by their content, not by their path.

    Earlier requests enter in their order.
    """
    facts = {
        name: _sorted(value) for name, value in task.items() if name not in ("seed", "after") and value is not None
    }
    if task.get("by") in ("ids", "releases"):
        for name in {str(task["by"]), "requests"} & set(facts):
            facts[name] = _contents(task[name])
    if task.get("after"):
        facts["after"] = {str(number): _earlier_facts(each) for number, each in enumerate(task["after"])}
    return {**facts, "code": code_hash("speechforget.data.requests.select")}


def _contents(files: Any) -> Any:
    """Return a hash of the lines of a file, in any order; a list of them for a list of files."""
    if isinstance(files, list | tuple):
        return [_contents(file) for file in files]
    lines = Path(str(files)).expanduser().read_text(encoding="utf-8-sig").splitlines()
    return key_of("ids", {"ids": sorted({line.strip() for line in lines} - {""})})


def _earlier_facts(earlier: Any) -> Any:
    """Describe a request that `task.after` holds, or the recordings that a file there names."""
    if isinstance(earlier, Mapping):
        return request_facts(counted(earlier))
    return key_of("ids", {"ids": sorted({identity for each in read_earlier(earlier) for identity in each.ids})})


def _sorted(value: Any) -> Any:
    return (
        sorted(map(str, value))
        if isinstance(value, (list, tuple)) and any(isinstance(each, str) for each in value)
        else value
    )


def attack_facts(attacks: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return, for the class of every attack, hashes of its numbers and its code, one for each time it is listed."""
    found: dict[str, list[str]] = {}
    for options in attacks:
        target = str(options["_target_"])
        found.setdefault(target, []).append(key_of("attack", {"options": options, "code": code_hash(target)}))
    return found


def metric_facts(version: int, paths: list[str]) -> dict[str, Any]:
    """Return the code hash of every metric."""
    return {"version": version, **{path: code_hash(path) for path in paths}}
