"""The whole story: corpus -> split -> request -> original, oracle (unless there is none), unlearned -> scores -> comparison.

Each line of `run` is an artefact (see `store.py`) or cheap. Whatever needs torch is imported when an artefact has to be built, so a run in which
everything exists imports neither torch nor Lightning.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speechforget.config.identity import corpus_facts, metric_facts, models_facts, request_facts
from speechforget.config.inputs import HEARING, WINDOWS, code_of, decisive, targets_in
from speechforget.config.oracle import has_oracle, why_no_oracle
from speechforget.config.seconds import with_seconds
from speechforget.config.tried import untried
from speechforget.config.tuned import check_tuned
from speechforget.data.requests.options import counted
from speechforget.data.requests.select import Request, save, select
from speechforget.distributed import group
from speechforget.errors import NotApplicable, UserError
from speechforget.models.checkpoint import UNMADE, Checkpoint, check_labels, read_checkpoint
from speechforget.models.pretrained import fingerprint, placeless
from speechforget.report.caveats import caveats
from speechforget.stages.split import Data, divide
from speechforget.store import Artefact, Producer, Store, provenance, verified, words_for
from speechforget.tracking.loggers import words_of

logger = logging.getLogger(__name__)

RESULT_VERSION = 2  # 1 knew no flags and no identity


def run(config: Mapping[str, Any]) -> float:
    """One comparison of original, oracle and unlearned, made or found; prints it and gives the objective (see `evaluation.compare`)."""
    return judged(config)[0]


def judged(config: Mapping[str, Any]) -> tuple[float, list[str]]:
    """`run`, and what is wrong with the unlearned model at first sight (see `evaluation.flags`)."""
    pipeline = Pipeline(config, Store.of(config))
    return pipeline.run(), pipeline.flags


class Pipeline:
    """One run's config and its artefacts, in order. store: where they are found or made; `planning` gives one that only looks."""

    def __init__(self, config: Mapping[str, Any], store: Producer) -> None:
        self.config, self.store = config, store
        self.seed = int(config["seed"])
        self.dataset, self.method, self.task = config["dataset"], config["method"], config["task"]
        self.words = words_of(config)
        self.flags: list[str] = []
        self.made_of: dict[str, tuple[str, Mapping[str, Any]]] = {}  # the key of each artefact -> its stage and inputs

    def run(self) -> float:
        """The objective, see the module's `run`; with `only`, that one artefact is made and nothing is compared."""
        if self.config["only"] is not None:
            artefact = self.train(self.config["only"])
            print(f"{self.config['only'].capitalize()}: {artefact.folder}")
            return float("nan")
        return self.show(self.result())

    def result(self) -> Artefact:
        """The whole story."""
        self.check_applicable()
        _ = self.request  # one that makes no sense is refused here, before anything is trained
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
        """The corpus, decoded and divided. From here on the config says in numbers how much of a recording is heard."""
        data = divide(self.config, self.store)
        self.config = with_seconds(self.config, data.audio.table["seconds"])
        self.dataset = self.config["dataset"]
        return data

    @functools.cached_property
    def request(self) -> Request:
        """What must be forgotten."""
        return select(self.data.table, self.task, self.data.left_out)

    @functools.cached_property
    def untried(self) -> str | None:
        """Why the method's numbers may not suit the request."""
        return untried(self.config, len(self.request.forget), len(self.data.rows("train")))

    @functools.cached_property
    def checkpoint(self) -> Checkpoint | None:
        """What the original is made of, where it is not trained here."""
        return read_checkpoint(self.config)

    def check_applicable(self) -> None:
        """Raises NotApplicable where the method is not defined for this kind of request, UserError where its numbers are another one's."""
        check_tuned(self.config, lambda: self.data.audio.fingerprint)
        kinds = list(self.method["requests"])
        if self.task["kind"] not in kinds:
            why = f" ({self.method['reason']})" if self.method.get("reason") else ""
            raise NotApplicable(
                f"The method {self.method['name']} is not defined for {self.task['kind']} requests, only for: {', '.join(kinds)}{why}."
            )

    def train(self, stage: str) -> Artefact:
        """The original or the oracle: the same function on all training utterances, or on what the request leaves; or the user's original."""
        if stage == "original" and self.checkpoint is not None:
            return self.imported(self.checkpoint)
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
        return self.made(stage, name, inputs, stage)

    def imported(self, checkpoint: Checkpoint) -> Artefact:
        """The original out of the user's checkpoint, wherever that lies; by this process, however many devices there are."""
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
                shutil.rmtree(folder)  # nobody will go on with it
                raise

        return self.noted(inputs, self.store.produce("original", "-".join([*self.words, "checkpoint"]), inputs, build))

    @property
    def hearing(self) -> dict[str, Any]:
        """What the classifier is given of a recording."""
        _ = self.data  # which makes `auto` a number
        return {name: self.dataset[name] for name in HEARING}

    def unlearn(self, original: Artefact) -> Artefact:
        """What the method makes of the original."""
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
        return self.made("unlearned", self.name, inputs, self.method["name"], original.folder)

    def score(self, kind: str, model: Artefact) -> Artefact:
        """The model's scores on every utterance of the corpus."""
        inputs = {"version": _version("score"), "model": model.key, "split": self.data.key, "hearing": self.hearing}
        inputs |= {"windows": self.dataset[WINDOWS], "code": code_of("scores")}
        return self.made("scores", model.name, inputs, f"scores of the {kind}", model.folder)

    def made(self, stage: str, name: str, inputs: Mapping[str, Any], title: str, model: Path | None = None) -> Artefact:
        """An artefact that needs torch: built by this process, or by one worker a device."""

        def build(folder: Path, key: str) -> None:
            from speechforget.distributed.protocol import Order
            from speechforget.stages.build import build as build_here

            start = None if model is None else str(model)
            order = Order(stage, self.config, str(folder), key, words_for(name), self.data.key, title, start)
            if group.ranks_of(self.config["trainer"]) > 1:
                group.perform(order)
            else:
                build_here(order, self.data, self.request)

        return self.noted(inputs, self.store.produce(stage, name, inputs, build))

    def noted(self, inputs: Mapping[str, Any], artefact: Artefact) -> Artefact:
        """The artefact; what it was made of is remembered."""
        self.made_of[artefact.key] = (artefact.folder.parent.name, inputs)
        return artefact

    @property
    def name(self) -> str:
        """Of the unlearned model and the result."""
        return "-".join([self.method["name"], *self.words, self.request.name, f"seed{self.seed}"])

    @functools.cached_property
    def forgotten_ids(self) -> str:
        """A hash of the request's utterances, and of those withdrawn with them."""
        ids, request = self.data.table["id"].to_numpy(), self.request
        withdrawn = ["", *ids[np.sort(request.withdrawn)]] if len(request.withdrawn) else []
        return _hash([*ids[np.sort(request.forget)], *withdrawn])

    def compare(self, models: Mapping[str, Artefact], scores: Mapping[str, Artefact]) -> Artefact:
        """The comparison: metrics of all models, with the request that they are about."""
        paths = list(self.config["metrics"]["metrics"])
        inputs = {
            "version": RESULT_VERSION,
            "scores": {name: artefact.key for name, artefact in scores.items()},
            "models": {name: artefact.key for name, artefact in models.items()},
            "request": self.forgotten_ids,
            "nonmembers": _hash(self.data.table["id"].to_numpy()[np.sort(self.request.nonmembers)]),
            "metrics": paths,
            "code": code_of("result", *paths),
            "seed": self.seed,
        }

        def build(folder: Path, key: str) -> None:
            from speechforget.stages.compare import build_result
            from speechforget.tracking.loggers import track_artefact

            save(self.request, self.data.table, folder)
            with track_artefact(self.config, "result", folder, key, words_for(self.name)) as tracker:
                record = {**self.record(models), "identity": self.identity(scores, inputs)}
                build_result(folder, self.config, record, self.data, self.request, models, scores, tracker)

        return self.store.produce("result", self.name, inputs, build)

    def record(self, models: Mapping[str, Artefact]) -> dict[str, Any]:
        """What a result says of itself besides numbers."""
        data, request, about = self.data, self.request, provenance()
        return {
            **dict(zip(("dataset", "label", "model"), self.words, strict=True)),
            "task": counted(self.task),
            "method": self.method["name"],
            "seed": self.seed,
            "request": {
                "name": request.name,
                "forget": len(request.forget),
                "retain": len(data.rows("train")) - len(request.forget),
                "nonmembers": len(request.nonmembers),
                "withdrawn": len(request.withdrawn),
                "matched": request.matched,
                "forgotten": list(request.forgotten),
            },
            "holdout": bool(len(data.rows("holdout"))),
            "artefacts": {
                "original": None,
                "oracle": None,
                **{name: artefact.folder.name for name, artefact in models.items()},
            },
            "cost": {name: artefact.cost for name, artefact in models.items()},
            "no_oracle": why_no_oracle(self.config),
            "notes": [*caveats(self.config, self.checkpoint), *request.notes],
            "untried": self.untried,
            "versions": about["versions"],
            "commit": about["commit"],
        }

    def identity(self, scores: Mapping[str, Artefact], result: Mapping[str, Any]) -> dict[str, Any]:
        """By what a report tells results apart: of each model's scores what made them, seeds apart; the request; the metrics; and the seeds.

        result: the inputs of the result.
        """
        made = {self.data.key: ("split", self.data.inputs), **self.made_of}
        corpus = corpus_facts(self.dataset, self.data.audio.steady)
        return {
            **models_facts(made, corpus, {name: artefact.key for name, artefact in scores.items()}),
            "request": request_facts(counted(self.task)),
            "metrics": metric_facts(RESULT_VERSION, result["metrics"]),
            "utterances": [result["request"], result["nonmembers"]],
            "seeds": {
                "seed": self.seed,
                "task.seed": int(self.task["seed"]),
                "dataset.split_seed": int(self.dataset["split_seed"]),
            },
        }

    def show(self, result: Artefact) -> float:
        """Prints the comparison and where it lies."""
        from speechforget.report.console import print_comparison
        from speechforget.report.record import read_objective

        try:
            found = json.loads(verified(result.folder, "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{result.folder} holds no readable result ({error}): remove it and run again.") from error
        print_comparison(found)
        print(f"Result: {result.folder}")
        self.flags = list(found["flags"])
        return read_objective(found)


def _hash(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


@functools.cache
def _version(stage: str) -> int:
    """`VERSION` of a stage's module, read without importing it (that would import torch)."""
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
