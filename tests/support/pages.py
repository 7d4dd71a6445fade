"""Made output folders: finished results with their score tables, without any training, and a browser to read pages."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.results import CLASS, SAMPLE, cost, record
from support.score_tables import CLASSES, WORDS, make_tables

from speechforget.cli.report import main
from speechforget.evaluation.compare import compare
from speechforget.report.record import write_result
from speechforget.stages.compare import SPEAKERS
from speechforget.store import Store, key_of, write_json

CONF = Path(__file__).parents[2] / "conf"
METRICS = ["accuracy.accuracy", "membership.loss_threshold", "membership.auc", "this_model.told_from_oracles"]
NAMES = tuple(sorted(WORDS))  # the order of outputs, as a split has it
RELEARNED = {"original": (0.99, 1.0), "oracle": (0.5, 0.9), "unlearned": (0.6, 0.95)}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@functools.cache
def default_config():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config"), resolve=True)


def measured(shots):
    """What attacks of relearning and of probes give, as `compare` holds it."""

    def entries(model):
        of = dict(zip(shots, RELEARNED[model], strict=True))
        found = {f"relearn_{shot}_final": value for shot, value in of.items()}
        found |= {f"probe_membership_{layer}": 0.5 + 0.1 * (model == "original") for layer in ("stem", "head")}
        return {
            name: {
                **{"value": value, "low": None, "high": None, "count": 50, "oracle_spread": 0.02, "oracles": 3},
                **{"gap": value - RELEARNED["oracle"][0], "null_low": value - 0.02, "null_high": value + 0.02},
            }
            for name, value in found.items()
        }

    return {model: entries(model) for model in RELEARNED}


def make_result(output, method="scrub", kind="sample", seed=0, about=None):
    """Write a result, its models and its score tables, all from the same made tables; return the result's folder."""
    store = Store(output, config={**default_config(), "output": str(output), "cache": str(output / "cache")})
    tables = replace(make_tables(kind, seed, 300, oracles=3), classes=NAMES)
    task = {**(CLASS if kind == "class" else SAMPLE), "seed": seed}
    ids = np.array([f"{NAMES[label]}/{row}.wav" for row, label in enumerate(tables.original.label)])
    role = tables.original.role
    split = store.produce("split", "made", {"kind": kind, "seed": seed}, lambda folder, _: _split(folder, tables, ids))
    scores, models = {}, {}
    for name, table in zip(
        ("original", "oracle", "oracle-seed1", "oracle-seed2", "unlearned"),
        (tables.original, *tables.oracles, tables.unlearned),
        strict=True,
    ):
        inputs = {"split": split.key, "name": name, "method": method if name == "unlearned" else ""}
        model = store.produce(name.split("-")[0], name, inputs, _model)
        inputs = {"split": split.key, "model": model.key}
        scores[name] = store.produce("scores", name, inputs, lambda folder, _, table=table: _scores(folder, table))
        models[name] = model
    numbers = compare(tables, [f"speechforget.evaluation.{path}" for path in METRICS])
    more = measured((1, 5))
    numbers = {model: {**found, **more[model]} for model, found in numbers.items()}
    lists = {"forget": role == "forget", "retain": role == "retain", "nonmembers": tables.original.nonmember}
    named = record(method, seed, task, **(about or {}))
    counts = {name: int(mask.sum()) for name, mask in lists.items()}
    forgotten = [NAMES[number] for number in tables.forgotten]
    named["request"] = {**named["request"], **counts, "forgotten": forgotten}
    named["artefacts"] = {name: model.folder.name for name, model in models.items()}
    inputs = {
        kind: {name: each.key for name, each in made.items()} for kind, made in (("scores", scores), ("models", models))
    }

    def build(folder, _):
        write_result(folder, named, numbers)
        (folder / SPEAKERS).write_text("".join(f"{speaker}\n" for speaker in tables.speaker))
        for name, mask in lists.items():
            (folder / f"{name}.txt").write_text("".join(f"{each}\n" for each in ids[mask]))

    return store.produce("result", f"{method}-{kind}", {**inputs, "seed": seed}, build).folder


def _split(folder, tables, ids):
    subset = np.where(np.isin(tables.original.role, ["forget", "retain"]), "train", tables.original.role)
    label = np.array(NAMES)[tables.original.label]
    columns = {"id": ids, "label": label, "unit": ids, "subset": subset, "planted": "", "taught": label}
    pd.DataFrame(columns).to_csv(folder / "utterances.csv", index=False)


def _model(folder, key):
    (folder / "weights.safetensors").write_bytes(key.encode())
    write_json(folder / "cost.json", cost(3.0))


def _scores(folder, table):
    draw = np.random.default_rng(0)
    embedding = table.logits @ draw.normal(size=(CLASSES, 4))
    columns = {"row": np.arange(len(table.label)), "label": table.label, "logits": table.logits.astype(np.float32)}
    for name, values in {**columns, "loss": table.loss, "embedding": embedding.astype(np.float32)}.items():
        np.save(folder / f"{name}.npy", values)


def copies(folder, methods, tasks, seeds):
    """Copy a result under other methods, requests and seeds: many results that cost no computing."""
    told = json.loads((folder / "result.json").read_text())
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "DONE"}
    for method, task, seed in itertools.product(methods, tasks, range(seeds)):
        named = record(method, seed, {**SAMPLE, **task})
        own = {**told, **{name: named[name] for name in ("method", "seed", "task", "identity", "artefacts")}}
        own["request"] = {**told["request"], "name": named["request"]["name"]}
        key = key_of("result", {"copy": [method, task, seed]})
        copied = folder.parent / f"{method}-copy-{key[:12]}"
        copied.mkdir()
        contents = {**files, "result.json": json.dumps(own).encode()}
        for name, content in contents.items():
            (copied / name).write_bytes(content)
        held = {
            name: {"bytes": len(each), "sha256": hashlib.sha256(each).hexdigest()} for name, each in contents.items()
        }
        (copied / "DONE").write_text(json.dumps({"key": key, "files": held}))


def write_report(output, *options):
    assert main([str(output), *options]) == 0
    return output / "report.html"


@contextmanager
def browser():
    """Start Debian's chromium; skip where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


class Watched:
    """A page that collects what it should not do: errors, warnings, and requests of anything but itself."""

    def __init__(self, browser, path, fragment="", opens=True, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.address = path.as_uri()
        if opens:
            self.page.goto(self.address + fragment)

    def _requested(self, url):
        if not url.startswith((self.address, "data:")):
            self.faults.append(f"requested {url}")

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        self.context.close()
        if error[0] is None:
            assert not self.faults
