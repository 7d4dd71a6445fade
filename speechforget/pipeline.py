"""Run a comparison: corpus -> split -> request -> original, oracle (if wanted), unlearned -> scores -> result.

Each step finds or makes an artefact in the store, or is cheap. A run that finds everything imports no torch.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.config.attribute import removed
from speechforget.config.evaluation import Training, has_pairs, oracle_names, request_of, trainings
from speechforget.config.inputs import HEARING, WINDOWS, code_of, decisive, targets_in, version_of
from speechforget.config.oracle import delivered_by
from speechforget.config.seconds import with_seconds
from speechforget.config.steps import config_before, with_past
from speechforget.config.structured import check_method_fits, kept_epochs, sharded
from speechforget.config.tried import untried
from speechforget.config.tuned import check_tuned
from speechforget.config.validate import check_defined
from speechforget.data.groups import group_columns
from speechforget.data.requests.pool import Pool, draw_pool
from speechforget.data.requests.request import digest_of
from speechforget.data.requests.select import Request, select
from speechforget.data.requests.steps import is_sequence
from speechforget.distributed import group
from speechforget.distributed.protocol import Order
from speechforget.models.checkpoint import Checkpoint, read_checkpoint
from speechforget.models.pretrained import fingerprint, placeless
from speechforget.stages.audit import audit
from speechforget.stages.continued import MadeFrom
from speechforget.stages.forgotten import mark
from speechforget.stages.kept_epochs import STAGE as KEPT
from speechforget.stages.kept_epochs import last_kept, rewound
from speechforget.stages.original import imported, is_imported
from speechforget.stages.power import power
from speechforget.stages.result import make_result
from speechforget.stages.sequence import Steps
from speechforget.stages.split import Data, split_corpus
from speechforget.stages.together import train_together
from speechforget.stages.warned import warn_of_harm
from speechforget.store import Artefact, Producer, Store, recording, words_for
from speechforget.tracking.loggers import words_of

logger = logging.getLogger(__name__)


def run(config: Mapping[str, Any]) -> float:
    """Make or find a comparison, or one for each request of a sequence; print it and return its objective."""
    return judged(config)[0]


def judged(config: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Do what `run` does; also return the flags of the unlearned model (see `evaluation.flags`)."""
    store = Store.of(config)
    if is_sequence(config["task"]):
        return Steps(config, store, Pipeline).run()
    pipeline = Pipeline(config, store)
    return pipeline.run(), pipeline.flags


class Pipeline:
    """Make the artefacts of one config in order. store: finds or makes them; that of `cli.plan` only looks.

    before: the run whose delivered model is the original of this one; by default that of the last request before.
    beside: a run on the same corpus, which then is not read twice.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        store: Producer,
        before: Pipeline | None = None,
        beside: Pipeline | None = None,
    ) -> None:
        self.config: Mapping[str, Any] = with_past(config)
        self.store, self.beside = recording(store, self.config), beside
        earlier = config_before(self.config)
        self.before = before or (None if earlier is None else type(self)(earlier, store))
        self.seed = int(config["seed"])
        self.dataset, self.method, self.task = (self.config[group] for group in ("dataset", "method", "task"))
        self.words = words_of(config)
        self.flags: list[str] = []
        self.models: dict[str, Artefact] = {}  # by name in `trainings`
        self.scored: dict[str, Artefact] = {}  # by key of the model
        self.trained: dict[str, str] = {}  # key of each trained model -> its name in `trainings`
        self.made_from: MadeFrom = {} if self.before is None else self.before.made_from

    def run(self) -> float:
        """Return the objective (see `evaluation.compare`); with `only`, make just that model, return nan."""
        if (only := self.config["only"]) is not None:
            print(f"{only.capitalize()}: {self.train(only).folder}")
            return math.nan
        return self.show(self.result())

    def result(self) -> Artefact:
        """Make or find all artefacts up to the result."""
        self.check_applicable()
        _ = self.request, self.pool, self.groups  # refused here, before anything is trained
        if self.untried:
            logger.warning(self.untried)
        self.train_all(list(trainings(self.config)))
        audited = {"audit": audit(self), "power": power(self)} if self.pool else {}
        return make_result(self, self.compared, self.scores, audited)

    @functools.cached_property
    def unlearned(self) -> Artefact:
        """Run the method on the original."""
        original = self.train_all(["original"])["original"]
        warn_of_harm(self, original)
        return self.unlearn(original)

    @property
    def compared(self) -> dict[str, Artefact]:
        """Make the models that are compared: original, oracles, unlearned."""
        return {**self.train_all(["original", *oracle_names(self.config)]), "unlearned": self.unlearned}

    @property
    def scores(self) -> dict[str, Artefact]:
        """Score the models that are compared."""
        return {name: self.score(name, model) for name, model in self.compared.items()}

    def delivered(self) -> Artefact:
        """Return the model that the run delivers."""
        name = delivered_by(self.config)
        return self.unlearned if name == "unlearned" else self.train_all([name])[name]

    @functools.cached_property
    def data(self) -> Data:
        """Decode and split the corpus; from here on, `dataset.seconds` is a number."""
        other = self.before or self.beside
        data = split_corpus(self.config, self.store) if other is None else other.data
        self.config = with_seconds(self.config, data.audio.table["seconds"])
        self.dataset = self.config["dataset"]
        return data

    @functools.cached_property
    def request(self) -> Request:
        """Select what must be forgotten."""
        return select(self.data.table, self.task, self.data.left_out)

    @functools.cached_property
    def pool(self) -> Pool | None:
        """Draw the pool of an audit; None without one."""
        pairs = self.config["evaluation"]["pairs"]
        return draw_pool(self.data.table, self.request, self.task, pairs) if has_pairs(self.config) else None

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """Return the columns of the corpus whose values are compared."""
        return group_columns(self.data.table, self.config["evaluation"].get("groups", ()))

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
        check_method_fits(self.config)
        check_defined(self.method, self.task)

    def train(self, name: str) -> Artefact:
        """Make a model of `config.evaluation.trainings`: the original (trained or imported), an oracle, ..."""
        if name == "original" and is_imported(self):
            return imported(self, self.checkpoint)
        training = trainings(self.config)[name]
        start = last_kept(self, training)
        made = self.make(training, self.name_of(training), self.inputs_of(training), name, start)
        self.trained[made.key] = name
        return made

    def train_all(self, names: Sequence[str]) -> dict[str, Artefact]:
        """Make several models by name, at once where that is faster; original and oracle alone, one by one."""
        alone = is_imported(self) or kept_epochs(self.config)
        if alone and "original" in names and "original" not in self.models:
            self.models["original"] = self.train("original")
        new = [name for name in names if name not in self.models]
        if len(new) <= 2 or sharded(self.config) or group.ranks_of(self.config["trainer"]) > 1:
            self.models |= {name: self.train(name) for name in new}
        else:
            self.models |= train_together(self, new)
        return {name: self.models[name] for name in names}

    def inputs_of(self, training: Training) -> dict[str, Any]:
        """Return what decides the weights of a trained model."""
        model = self.config["model"]
        return {
            "version": version_of("train"),
            "split": self.data.key,
            "without": self.left_out(training),
            "hearing": self.hearing,
            "model": decisive("model", placeless(model)),
            "code": code_of(training.stage, *targets_in(model), *targets_in(self.config["train"])),
            "train": decisive("train", self.config["train"]),
            **decisive("trainer", self.config["trainer"]),
            "seed": training.seed,
            **({"pretrained": weights} if (weights := fingerprint(model)) else {}),
        }

    @property
    def hearing(self) -> dict[str, Any]:
        """Return what decides the input of the classifier."""
        _ = self.data  # makes `dataset.seconds` a number
        return {name: self.dataset[name] for name in HEARING}

    def unlearn(self, original: Artefact, training: Training | None = None) -> Artefact:
        """Run the method on an original. training: of a part of an audit's pool; by default the request of the run."""
        training = training or Training("unlearned", self.seed)
        kept = rewound(self, training)
        inputs = {
            "version": version_of("unlearn"),
            "original": original.key,
            "split": self.data.key,
            "without": self.left_out(training),
            "forgotten": list(self.request.of_method.forgotten),
            "method": decisive("method", self.method),
            "code": code_of("unlearned", *targets_in(self.method), *targets_in(self.config["train"]["augment"])),
            "augment": self.config["train"]["augment"],
            **decisive("trainer", self.config["trainer"]),
            "seed": training.seed,
            **({"kept_epoch": kept.key} if kept else {}),
            **removed(self.config),
        }
        name = f"{self.method['name']}-{self.name_of(training)}"
        title = f"{self.method['name']} {training.part or ''}".strip()
        return self.make(training, name, inputs, title, (kept or original).folder)

    def score(self, kind: str, model: Artefact) -> Artefact:
        """Score every utterance of the corpus with a model. kind: original, oracle, unlearned, for the progress bar."""
        if model.key not in self.scored:
            inputs = {"version": version_of("score"), "model": model.key, "split": self.data.key}
            inputs |= {"hearing": self.hearing, "windows": self.dataset[WINDOWS], "code": code_of("scores")}
            training, title = Training("scores", self.seed), f"scores of the {kind}"
            self.scored[model.key] = self.make(training, model.name, inputs, title, model.folder)
        return self.scored[model.key]

    def make(
        self, training: Training, name: str, inputs: Mapping[str, Any], title: str, model: Path | None = None
    ) -> Artefact:
        """Make an artefact that needs torch, in this process or with one worker per device."""

        def build(folder: Path, key: str) -> None:
            from speechforget.stages.build import build as build_here
            from speechforget.stages.try_out import try_out

            if model is None:
                try_out(self.config)
            order = self.order(training, name, folder, key, title, model)
            if group.ranks_of(self.config["trainer"]) > 1:
                group.perform(order)
            else:
                build_here(order, self.data, self.request_of(training))
            if training.stage not in ("scores", KEPT):
                mark(self, training, folder)

        return self.produce(training.stage, name, inputs, build)

    def order(
        self, training: Training, name: str, folder: Path, key: str, title: str, model: Path | None = None
    ) -> Order:
        """Describe an artefact to build. title: of its progress bar. model: the folder of the model to start from."""
        config, start = {**self.config, "seed": training.seed}, None if model is None else str(model)
        rest = self.data.key, title, start, training.part, training.epoch
        return Order(training.stage, config, str(folder), key, words_for(name), *rest)

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Find or make an artefact in the store, and remember what it was made from."""
        artefact = self.store.produce(stage, name, inputs, build)
        self.made_from[artefact.key] = (stage, inputs)
        return artefact

    @property
    def name(self) -> str:
        """Return the name of the result."""
        return f"{self.method['name']}-{self.name_of(Training('result', self.seed))}"

    def name_of(self, training: Training) -> str:
        """Return the words of a model: what it was trained on, and its seed."""
        request = self.request_of(training)
        return "-".join([*self.words, *([request.name] if request else []), f"seed{training.seed}"])

    def request_of(self, training: Training) -> Request | None:
        """Return what a model is trained without, or forgets; None for the original of the run."""
        return request_of(training, self.request, self.pool)

    def left_out(self, training: Training) -> str | None:
        """Return a hash of the training utterances that a model is trained without, or forgets; None without any."""
        request = self.request_of(training)
        return None if request is None else request.digest(self.data.table)

    @functools.cached_property
    def forgotten_ids(self) -> str:
        """Return a hash of the forgotten and the withdrawn utterances."""
        return str(self.left_out(Training("result", self.seed)))

    @functools.cached_property
    def nonmember_ids(self) -> str:
        """Return a hash of the non-members."""
        return digest_of(self.data.table, self.request.nonmembers)

    def show(self, result: Artefact) -> float:
        """Print the comparison and its folder; return the objective."""
        from speechforget.report.console import print_comparison
        from speechforget.report.record import read_objective, read_result

        found = read_result(result.folder)
        print_comparison(found)
        print(f"Result: {result.folder}")
        self.flags = list(found["flags"])
        return read_objective(found)
