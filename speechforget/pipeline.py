"""Run a comparison: corpus -> split -> request -> original, oracle (if wanted), unlearned -> scores -> result.

Each step finds or makes an artefact in the store, or is cheap. Code that needs torch is imported only when an artefact
has to be made, so a run that finds everything imports neither torch nor Lightning.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speechforget.config.inputs import HEARING, WINDOWS, code_of, decisive, targets_in
from speechforget.config.oracle import has_oracle
from speechforget.config.seconds import with_seconds
from speechforget.config.tried import untried
from speechforget.config.tuned import check_tuned
from speechforget.data.requests.select import Request, save, select
from speechforget.distributed import group
from speechforget.errors import NotApplicable, UserError
from speechforget.models.checkpoint import UNMADE, Checkpoint, check_labels, read_checkpoint
from speechforget.models.pretrained import fingerprint, placeless
from speechforget.stages import record
from speechforget.stages.split import Data, split_corpus
from speechforget.store import Artefact, Producer, Store, verified, words_for
from speechforget.tracking.loggers import words_of

logger = logging.getLogger(__name__)


def run(config: Mapping[str, Any]) -> float:
    """Make or find one comparison of original, oracle and unlearned, print it and return its objective."""
    return judged(config)[0]


def judged(config: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Do what `run` does; also return the flags of the unlearned model (see `evaluation.flags`)."""
    pipeline = Pipeline(config, Store.of(config))
    return pipeline.run(), pipeline.flags


class Pipeline:
    """Make the artefacts of one config in order. store: finds or makes them; that of `cli.plan` only looks."""

    def __init__(self, config: Mapping[str, Any], store: Producer) -> None:
        self.config, self.store = config, store
        self.seed = int(config["seed"])
        self.dataset, self.method, self.task = config["dataset"], config["method"], config["task"]
        self.words = words_of(config)
        self.flags: list[str] = []
        self.made_from: dict[str, tuple[str, Mapping[str, Any]]] = {}  # key of each artefact -> its stage and inputs

    def run(self) -> float:
        """Return the objective (see `evaluation.compare`); with `only`, make just that model, return nan."""
        if self.config["only"] is not None:
            artefact = self.train(self.config["only"])
            print(f"{self.config['only'].capitalize()}: {artefact.folder}")
            return float("nan")
        return self.show(self.result())

    def result(self) -> Artefact:
        """Make or find all artefacts up to the result."""
        self.check_applicable()
        _ = self.request  # an impossible request is refused here, before anything is trained
        if self.untried:
            logger.warning(self.untried)
        original = self.train("original")
        oracle = {"oracle": self.train("oracle")} if has_oracle(self.config) else {}
        unlearned = self.unlearn(original)
        models = {"original": original, **oracle, "unlearned": unlearned}
        scores = {name: self.score(name, model) for name, model in models.items()}
        return self.compare(models, scores)

    @functools.cached_property
    def data(self) -> Data:
        """Decode and split the corpus; from here on, `dataset.seconds` is a number."""
        data = split_corpus(self.config, self.store)
        self.config = with_seconds(self.config, data.audio.table["seconds"])
        self.dataset = self.config["dataset"]
        return data

    @functools.cached_property
    def request(self) -> Request:
        """Select what must be forgotten."""
        return select(self.data.table, self.task, self.data.left_out)

    @functools.cached_property
    def untried(self) -> str | None:
        """Say why the numbers of the method may not suit the request; None if they do."""
        return untried(self.config, len(self.request.forget), len(self.data.rows("train")))

    @functools.cached_property
    def checkpoint(self) -> Checkpoint | None:
        """Return the user's checkpoint of the original, if there is one."""
        return read_checkpoint(self.config)

    def check_applicable(self) -> None:
        """Raise NotApplicable for a method not defined for the request, UserError for numbers tuned for another one."""
        check_tuned(self.config, lambda: self.data.audio.fingerprint)
        kinds = list(self.method["requests"])
        if self.task["kind"] not in kinds:
            why = f" ({self.method['reason']})" if self.method.get("reason") else ""
            raise NotApplicable(
                f"The method {self.method['name']} is not defined for {self.task['kind']} requests, "
                f"only for: {', '.join(kinds)}{why}."
            )

    def train(self, stage: str) -> Artefact:
        """Make the original (trained on all training utterances, or imported) or the oracle (trained on retain)."""
        if stage == "original" and self.checkpoint is not None:
            return self.import_original(self.checkpoint)
        model = self.config["model"]
        inputs = {
            "version": _version("train"),
            "split": self.data.key,
            "without": None if stage == "original" else self.forgotten_ids,
            "hearing": self.hearing,
            "model": decisive("model", placeless(model)),
            "code": code_of(stage, *targets_in(model), *targets_in(self.config["train"])),
            "train": decisive("train", self.config["train"]),
            **decisive("trainer", self.config["trainer"]),
            "seed": self.seed,
            **({"pretrained": weights} if (weights := fingerprint(model)) else {}),
        }
        name = "-".join([*self.words, *([] if stage == "original" else [self.request.name]), f"seed{self.seed}"])
        return self.make(stage, name, inputs, stage)

    def import_original(self, checkpoint: Checkpoint) -> Artefact:
        """Make the original from the user's checkpoint, in this process, however many devices there are."""
        classes, model = self.data.classes, self.config["model"]
        check_labels(checkpoint, classes)
        inputs = {
            "version": _version("import_checkpoint"),
            "checkpoint": checkpoint.digest,
            "labels": list(checkpoint.labels),
            "classes": classes,
            "hearing": self.hearing,
            "model": {name: value for name, value in decisive("model", model).items() if name not in UNMADE},
            "code": code_of("original of a checkpoint", *targets_in(model)),
        }

        def build(folder: Path, _: str) -> None:
            from speechforget.stages.import_checkpoint import import_checkpoint

            try:
                import_checkpoint(folder, checkpoint, classes, self.dataset, model)
                if checkpoint.digest != inputs["checkpoint"]:
                    raise UserError(f"{checkpoint.folder} changed while it was read: run the same command again.")
            except UserError:
                shutil.rmtree(folder)  # it can never be resumed
                raise

        return self.produce("original", "-".join([*self.words, "checkpoint"]), inputs, build)

    @property
    def hearing(self) -> dict[str, Any]:
        """Return what decides the input of the classifier."""
        _ = self.data  # makes `dataset.seconds` a number
        return {name: self.dataset[name] for name in HEARING}

    def unlearn(self, original: Artefact) -> Artefact:
        """Run the method on the original."""
        inputs = {
            "version": _version("unlearn"),
            "original": original.key,
            "split": self.data.key,
            "without": self.forgotten_ids,
            "forgotten": list(self.request.forgotten),
            "method": decisive("method", self.method),
            "code": code_of("unlearned", *targets_in(self.method), *targets_in(self.config["train"]["augment"])),
            "augment": self.config["train"]["augment"],
            **decisive("trainer", self.config["trainer"]),
            "seed": self.seed,
        }
        return self.make("unlearned", self.name, inputs, self.method["name"], original.folder)

    def score(self, kind: str, model: Artefact) -> Artefact:
        """Score every utterance of the corpus with a model. kind: original, oracle or unlearned."""
        inputs = {"version": _version("score"), "model": model.key, "split": self.data.key, "hearing": self.hearing}
        inputs |= {"windows": self.dataset[WINDOWS], "code": code_of("scores")}
        return self.make("scores", model.name, inputs, f"scores of the {kind}", model.folder)

    def attack(self, model: Artefact, options: Mapping[str, Any]) -> Artefact:
        """Run the attack that `options` describes on a model, in this process, however many devices there are."""
        inputs = {
            "version": _version("attack"),
            "model": model.key,
            "split": self.data.key,
            "request": self.forgotten_ids,
            "forgotten": list(self.request.forgotten),
            "nonmembers": self.nonmember_ids,
            "hearing": self.hearing,
            "attack": options,
            "code": code_of("attack", *targets_in(options)),
            "seed": self.seed,
        }

        def build(folder: Path, _: str) -> None:
            from speechforget.stages.attack import run_attack

            run_attack(folder, model.folder, self.config, self.data, self.request, options)

        return self.produce("attack", f"{str(options['_target_']).rpartition('.')[2]}-{model.name}", inputs, build)

    def make(self, stage: str, name: str, inputs: Mapping[str, Any], title: str, model: Path | None = None) -> Artefact:
        """Make an artefact that needs torch, in this process or with one worker per device."""

        def build(folder: Path, key: str) -> None:
            from speechforget.distributed.protocol import Order
            from speechforget.stages.build import build as build_here

            start = None if model is None else str(model)
            order = Order(stage, self.config, str(folder), key, words_for(name), self.data.key, title, start)
            if group.ranks_of(self.config["trainer"]) > 1:
                group.perform(order)
            else:
                build_here(order, self.data, self.request)

        return self.produce(stage, name, inputs, build)

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Find or make an artefact in the store, and remember what it was made from."""
        artefact = self.store.produce(stage, name, inputs, build)
        self.made_from[artefact.key] = (stage, inputs)
        return artefact

    @property
    def name(self) -> str:
        """Return the name of the unlearned model and of the result."""
        return "-".join([self.method["name"], *self.words, self.request.name, f"seed{self.seed}"])

    @functools.cached_property
    def forgotten_ids(self) -> str:
        """Return a hash of the forgotten and the withdrawn utterances."""
        ids, request = self.data.table["id"].to_numpy(), self.request
        withdrawn = ["", *ids[np.sort(request.withdrawn)]] if len(request.withdrawn) else []
        return _hash([*ids[np.sort(request.forget)], *withdrawn])

    @functools.cached_property
    def nonmember_ids(self) -> str:
        """Return a hash of the non-members."""
        return _hash(self.data.table["id"].to_numpy()[np.sort(self.request.nonmembers)])

    def compare(self, models: Mapping[str, Artefact], scores: Mapping[str, Artefact]) -> Artefact:
        """Attack all models, and compare their scores and what the attacks measured for this request."""
        paths = list(self.config["evaluation"]["metrics"])
        attacks = list(self.config["evaluation"]["attacks"])
        attacked = {name: [self.attack(model, options) for options in attacks] for name, model in models.items()}
        inputs = {
            "version": record.VERSION,
            "scores": {name: artefact.key for name, artefact in scores.items()},
            "models": {name: artefact.key for name, artefact in models.items()},
            "attacks": {name: [artefact.key for artefact in made] for name, made in attacked.items()},
            "request": self.forgotten_ids,
            "nonmembers": self.nonmember_ids,
            "metrics": paths,
            "code": code_of("result", *paths),
            "seed": self.seed,
        }

        def build(folder: Path, key: str) -> None:
            from speechforget.stages.compare import write_comparison
            from speechforget.tracking.loggers import track_artefact

            save(self.request, self.data.table, folder)
            with track_artefact(self.config, "result", folder, key, words_for(self.name)) as tracker:
                told = record.describe_result(
                    self.config, self.data, self.request, models, self.checkpoint, self.untried
                )
                told["identity"] = record.identity(self.config, self.data, self.made_from, inputs)
                write_comparison(folder, self.config, told, self.data, self.request, models, scores, attacked, tracker)

        return self.store.produce("result", self.name, inputs, build)

    def show(self, result: Artefact) -> float:
        """Print the comparison and its folder; return the objective."""
        from speechforget.report.console import print_comparison
        from speechforget.report.record import read_objective

        try:
            found = json.loads(verified(result.folder, "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{result.folder} has no readable result ({error}): remove it and run again.") from error
        print_comparison(found)
        print(f"Result: {result.folder}")
        self.flags = list(found["flags"])
        return read_objective(found)


def _hash(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


@functools.cache
def _version(stage: str) -> int:
    """Return `VERSION` of the module of a stage, read without importing it, which would import torch."""
    import ast

    path = Path(__file__).with_name("stages") / f"{stage}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "VERSION"
            and isinstance(node.value, ast.Constant)
        ):
            return int(node.value.value)  # type: ignore[arg-type]
    raise AssertionError(f"{path} has no VERSION")
