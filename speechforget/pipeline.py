"""The whole story: corpus -> split -> request -> original, oracle, unlearned -> scores -> comparison.

Each line of `run` is an artefact (see `store.py`) or cheap. Whatever needs torch is imported when an artefact has to be built, so a run in which
everything exists imports neither torch nor Lightning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechforget.data.request import Request, save, select
from speechforget.dividing import Data, divide, make_sources
from speechforget.errors import NotApplicable, UserError
from speechforget.store import Artefact, code_hash, produce

if TYPE_CHECKING:
    from speechforget.fitting import Job

RESULT_VERSION = 1
AUGMENT, DRIVER = "speechforget.data.augment", "speechforget.methods.driver"  # whose edits change what training and methods do


def run(config: Mapping[str, Any]) -> float:
    """One comparison of original, oracle and unlearned, made or found; prints it and gives the objective (see `evaluation.compare`)."""
    return Pipeline(config).run()


class Pipeline:
    """One run's config and its artefacts, in order."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.root = Path(config["output"])
        self.seed = int(config["seed"])
        self.dataset, self.method, self.task = config["dataset"], config["method"], config["task"]
        self.words = {"dataset": self.dataset["name"], "label": self.dataset["label"], "model": config["model"]["name"]}

    def run(self) -> float:
        """See the module's `run`."""
        self.check_applicable()
        data = divide(self.config)
        request = select(data.table, self.task)
        original = self.train("original", data, None)
        oracle = self.train("oracle", data, request)
        unlearned = self.unlearn(data, request, original)
        models = {"original": original, "oracle": oracle, "unlearned": unlearned}
        scores = {name: self.score(data, name, model) for name, model in models.items()}
        result = self.compare(data, request, models, scores)
        return self.show(result)

    def check_applicable(self) -> None:
        """Raises NotApplicable where the method is not defined for this kind of request."""
        kinds = list(self.method["requests"])
        if self.task["kind"] not in kinds:
            raise NotApplicable(f"The method {self.method['name']} is not defined for {self.task['kind']} requests, only for: {', '.join(kinds)}.")

    def train(self, stage: str, data: Data, request: Request | None) -> Artefact:
        """The original (request None) or the oracle: the same function on all training utterances, or on what the request leaves."""
        model, recipe = self.config["model"], without_name(self.config["train"])
        inputs = {
            "version": _version("training"),
            "split": data.key,
            "without": _hash_ids(data, request),
            "hearing": {name: self.dataset[name] for name in ("sample_rate", "seconds")},
            "model": without_name(model),
            "code": [code_hash(target) for target in (model["_target_"], AUGMENT)],
            "train": recipe,
            "precision": self.config["trainer"]["precision"],
            "seed": self.seed,
        }

        def build(job: Job) -> None:
            from speechforget.training import train

            sources = make_sources(self.config, data, request)
            if request is not None:
                sources.rows["train"] = sources.rows["retain"]
            train(job, sources, data.classes, self.dataset, model, recipe)

        name = "-".join([*self.words.values(), *([request.name] if request else []), f"seed{self.seed}"])
        return self.fitted(stage, name, inputs, build)

    def unlearn(self, data: Data, request: Request, original: Artefact) -> Artefact:
        """What the method makes of the original."""
        inputs = {
            "version": _version("unlearning"),
            "original": original.key,
            "without": _hash_ids(data, request),
            "forgotten": list(request.forgotten),
            "method": without_name(self.method),
            "code": [code_hash(target) for target in (self.method["_target_"], DRIVER, AUGMENT)],
            "augment": self.config["train"]["augment"],
            "precision": self.config["trainer"]["precision"],
            "seed": self.seed,
        }

        def build(job: Job) -> None:
            from speechforget.unlearning import unlearn

            forgotten = tuple(data.classes.index(name) for name in request.forgotten)
            unlearn(job, original.folder, make_sources(self.config, data, request), forgotten, self.method)

        name = "-".join([self.method["name"], *self.words.values(), request.name, f"seed{self.seed}"])
        return self.fitted("unlearned", name, inputs, build)

    def fitted(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Job], None]) -> Artefact:
        """An artefact that is trained: tracked, resumable, with a cost."""

        def build_tracked(folder: Path, key: str) -> None:
            from speechforget.fitting import Job
            from speechforget.loading import rehearse

            rehearse(self.config)
            with self.tracker(folder, key, stage, name) as tracker:
                build(Job(folder, self.config["trainer"], self.seed, tracker, self.method["name"] if stage == "unlearned" else stage))

        return produce(self.root, stage, name, inputs, build_tracked)

    def tracker(self, folder: Path, key: str, stage: str, name: str) -> Any:
        """The logger of one artefact: grouped by experiment, which is corpus, label and model."""
        from speechforget.tracking import Run, track

        tags = [stage, *self.words.values(), f"seed{self.seed}"]
        foreign = {"original": {"task", "method", "metrics"}, "oracle": {"method", "metrics"}}.get(stage, set())
        tags += [] if "task" in foreign else [self.task["kind"]]
        tags += [] if "method" in foreign else [self.method["name"]]
        config = {group: value for group, value in self.config.items() if group not in foreign}
        return track(self.config["logger"], Run(folder, key, name, "-".join(self.words.values()), stage, tags, config))

    def score(self, data: Data, kind: str, model: Artefact) -> Artefact:
        """The model's scores on every utterance of the corpus."""
        inputs = {"version": _version("scoring"), "model": model.key, "split": data.key}

        def build(folder: Path, _: str) -> None:
            from speechforget.scoring import score

            score(folder, model.folder, make_sources(self.config, data, None), self.config["trainer"], f"scores of the {kind}")

        return produce(self.root, "scores", model.folder.name.rsplit("-", 1)[0], inputs, build)

    def compare(self, data: Data, request: Request, models: Mapping[str, Artefact], scores: Mapping[str, Artefact]) -> Artefact:
        """The comparison: metrics of all three models, with the request that they are about."""
        paths = list(self.config["metrics"]["metrics"])
        inputs = {
            "version": RESULT_VERSION,
            "scores": {name: artefact.key for name, artefact in scores.items()},
            "models": {name: artefact.key for name, artefact in models.items()},
            "request": _hash_ids(data, request),
            "nonmembers": _hash(data.table["id"].to_numpy()[np.sort(request.nonmembers)]),
            "metrics": paths,
            "code": [code_hash(path) for path in paths],
            "seed": self.seed,
        }
        name = "-".join([self.method["name"], *self.words.values(), request.name, f"seed{self.seed}"])

        def build(folder: Path, key: str) -> None:
            from speechforget.result import build_result

            save(request, data.table, folder)
            record = self.record(data, request, models)
            with self.tracker(folder, key, "result", name) as tracker:
                build_result(folder, self.config, record, data, request, models, scores, tracker)

        return produce(self.root, "result", name, inputs, build)

    def record(self, data: Data, request: Request, models: Mapping[str, Artefact]) -> dict[str, Any]:
        """What a result says of itself besides numbers."""
        from speechforget.store import provenance

        about = provenance()
        return {
            **self.words,
            "task": dict(self.task),
            "method": self.method["name"],
            "seed": self.seed,
            "request": {
                "name": request.name,
                "forget": len(request.forget),
                "retain": len(data.rows("train")) - len(request.forget),
                "nonmembers": len(request.nonmembers),
                "forgotten": list(request.forgotten),
            },
            "holdout": bool(len(data.rows("holdout"))),
            "settings": self.settings(),
            "artefacts": {name: artefact.folder.name for name, artefact in models.items()},
            "cost": {name: artefact.cost for name, artefact in models.items()},
            "versions": about["versions"],
            "commit": about["commit"],
        }

    def settings(self) -> dict[str, Any]:
        """The numbers by which a report tells runs apart that share their names."""
        return {
            "method": without_name(self.method),
            "model": without_name(self.config["model"]),
            "train": without_name(self.config["train"]),
            "dataset": {name: self.dataset[name] for name in ("validation", "holdout", "copies", "sample_rate", "seconds")},
            "corpus": without_name(self.dataset["corpus"]),
            "precision": self.config["trainer"]["precision"],
        }

    def show(self, result: Artefact) -> float:
        """Prints the comparison and where it lies."""
        from speechforget.report.console import print_comparison

        try:
            found = json.loads((result.folder / "result.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{result.folder} holds no readable result ({error}): remove it and run again.") from error
        print_comparison(found)
        print(f"Result: {result.folder}")
        return float("nan") if found["objective"] is None else float(found["objective"])


def without_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what only names it."""
    return {name: value for name, value in options.items() if name not in {"name", "requests"}}


def _hash(ids: np.ndarray) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _hash_ids(data: Data, request: Request | None) -> str | None:
    return None if request is None else _hash(data.table["id"].to_numpy()[np.sort(request.forget)])


def _version(stage: str) -> int:
    """`VERSION` of a stage's module, read without importing it (that would import torch)."""
    import ast

    path = Path(__file__).with_name(f"{stage}.py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VERSION" and isinstance(node.value, ast.Constant):
            return int(node.value.value)  # type: ignore[arg-type]
    raise AssertionError(f"{path} has no VERSION")
