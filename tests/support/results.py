"""Made results of runs: numbers that a test can check by hand, and what the pipeline records with them."""

from __future__ import annotations

import hashlib
import io
import json

from rich.console import Console

from speechforget.report.collect import collect
from speechforget.report.console import print_comparison
from speechforget.report.record import write_result
from speechforget.report.summary import summarize

SAMPLE = {"kind": "sample", "by": "random", "percent": 5, "seed": 0}
CLASS = {"kind": "class", "classes": None, "number": 1, "seed": 0}
MACHINE = {"device": "cpu", "host": "EPYC, 8 cores", "threads": 1, "ranks": 1}


def entry(value, low=None, high=None, count=100, gap=0.0):
    return {"value": value, "low": low, "high": high, "count": count, "gap": gap, "oracle_spread": None}


def comparison(unlearned=0.8, oracle=0.9, auc=(0.5, 0.4, 0.6, 50), seconds=4.0):
    """What `compare` returns, with numbers that a test can check by hand."""

    def model(value, area, took):
        accuracies = {
            f"accuracy_{name}": entry(value, value - 0.05, min(value + 0.05, 1), 100, value - oracle)
            for name in ("forget", "retain", "test")
        }
        accuracies["accuracy_test_forgotten"] = entry(None, count=0, gap=None)
        accuracies["accuracy_validation"] = entry(value, gap=value - oracle)
        gap = None if area[0] is None or auc[0] is None else area[0] - auc[0]
        attack = {"membership_nonmember_share": entry(0.4, 0.3, 0.5), "membership_auc": entry(*area, gap)}
        return {**accuracies, **attack, "seconds": entry(took, count=1)}

    return {
        "original": model(1.0, (0.9, 0.8, 1.0, 50), 20.0),
        "oracle": model(oracle, auc, 16.0),
        "unlearned": model(unlearned, auc, seconds),
    }


def without_oracle():
    """What `compare` returns without an oracle."""
    numbers = comparison()
    nothing = entry(None, count=0, gap=None)
    numbers["oracle"] = dict.fromkeys(numbers["oracle"], nothing)
    return {model: {name: {**one, "gap": None} for name, one in entries.items()} for model, entries in numbers.items()}


def cost(seconds=1.0, forward=100, forward_backward=300, **machine):
    return {
        "seconds": seconds,
        "forward": forward,
        "forward_backward": forward_backward,
        "machine": {**MACHINE, **machine},
    }


def identified(task, method, seed, split_seed=0, **facts):
    """What `Pipeline.identity` gives. facts: of `table` (original and oracle), `unlearned`, `request` or `metrics`."""
    table = {"model.train.epochs": 3, **facts.get("table", {})}
    unlearned = {"model.method.learning_rate": 0.1, **facts.get("unlearned", {})}
    request = {
        **{name: value for name, value in task.items() if name != "seed" and value is not None},
        **facts.get("request", {}),
    }
    return {
        "original": {"digest": digest(table), "facts": table},
        "oracle": {"digest": digest([table]), "facts": table},
        "unlearned": {"digest": digest([table, unlearned, method]), "facts": unlearned},
        "request": request,
        "metrics": {"version": 2, "accuracy": "a" * 64, **facts.get("metrics", {})},
        "utterances": [digest([request, task["seed"]]), "nonmembers"],
        "seeds": {"seed": int(seed), "task.seed": task["seed"], "dataset.split_seed": split_seed},
    }


def digest(thing):
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[:16]


def record(method="scrub", seed=0, task=None, facts=None, **changes):
    """The record of a result. Its artefacts are named by the hash of what made them."""
    task = dict(task or SAMPLE)
    name = f"{task['kind']}-{task.get('percent', 'yes')}-seed{task['seed']}"
    identity = identified(task, method, seed, **(facts or {}))
    made = [seed, identity["seeds"]["dataset.split_seed"], identity["original"]["digest"]]
    keys = {
        "original": made,
        "oracle": [made, identity["request"], task["seed"]],
        "unlearned": [made, identity["unlearned"]["digest"], identity["request"], task["seed"]],
    }
    base = {
        "task": task,
        "dataset": "espeak",
        "label": "word",
        "model": "tcresnet",
        "method": method,
        "seed": seed,
        "request": {"name": name, "forget": 50, "retain": 500, "nonmembers": 50, "forgotten": []},
        "holdout": True,
        "artefacts": {name: f"{name}-{digest(key)}" for name, key in keys.items()},
        "identity": identity,
        "cost": {"original": cost(20.0), "oracle": cost(16.0), "unlearned": cost(4.0, 10, 30)},
        "versions": {"torch": "2.13"},
        "commit": "abc",
    }
    return {**base, **changes}


def save(folder, about, numbers):
    result = write_result(folder, about, numbers)
    (folder / "DONE").touch()
    return result


def printed(result, **options):
    out = io.StringIO()
    print_comparison(result, console=Console(file=out, width=112, **options))
    return out.getvalue()


def tables_below(folder):
    return summarize(collect(folder))


def words(text):
    """The text on one line, however it was wrapped."""
    return " ".join(text.split())
