"""The objective of a search: the number that run.py returns, without keeping the unlearned models."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechforget.config.evaluation import oracle_names
from speechforget.config.inputs import metrics_in
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, OneByOne, Store, make_folder

ACCURACY = "speechforget.evaluation.accuracy.accuracy"  # the metric behind the objective
NO_LOGGER = {"_target_": "speechforget.tracking.loggers.no_logger"}


@dataclass
class Apart(OneByOne):
    """Keep artefacts that trials share in the user's store, and those of one trial in `trial`."""

    shared: Store
    trial: Store
    own: set[str] = field(default_factory=set)

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        if stage != "unlearned" and not (stage == "scores" and inputs["model"] in self.own):
            return self.shared.produce(stage, name, inputs, build)
        artefact = self.trial.produce(stage, name, inputs, build)
        self.own.add(artefact.key)
        return artefact


class Objective:
    """Compute what run.py returns from some of the method's numbers: the mean over seeds. configs: one per seed."""

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        self.configs = configs
        self.bases: list[Pipeline] = []

    def prepare(self) -> None:
        """Check that the method can be built, then make or find originals and all oracles of the request."""
        from speechforget.stages.preflight import preflight

        for config in self.configs:
            preflight(config)
            base = Pipeline(config, Store.of(config))
            base.check_applicable()
            for name, model in base.train_all(["original", *oracle_names(config)]).items():
                base.score(name, model)
            self.bases.append(base)

    def __call__(self, numbers: Mapping[str, float]) -> float:
        """Give the objective, in [0, 1]. Raises UserError where a run with these numbers has none."""
        return statistics.fmean(self._measured(base, numbers) for base in self.bases)

    def _measured(self, base: Pipeline, numbers: Mapping[str, float]) -> float:
        from speechforget.evaluation.compare import TOLD, compare, objective
        from speechforget.stages.compare import join

        assert isinstance(base.store, Store)
        with tempfile.TemporaryDirectory(prefix="trial-", dir=tuning_folder(base.config)) as folder:
            config = {**base.config, "method": {**base.method, **numbers}, "logger": NO_LOGGER}
            trial = Pipeline(config, Apart(base.store, Store(Path(folder))))
            trial.data, trial.request = base.data, base.request  # type: ignore[misc]  # read and split once
            models = trial.train_all(["original", *oracle_names(config)])
            models["unlearned"] = trial.unlearn(models["original"])
            scores = {name: trial.score(name, model) for name, model in models.items()}
            kind, metrics = config["evaluation"]["objective"], metrics_in(config["evaluation"])
            needed = [ACCURACY, *(path for path in metrics if path.endswith(f".{TOLD}") and kind == TOLD)]
            tables = join(trial.data, trial.request, models, scores, trial.seed)
            found = objective(compare(tables, needed), kind)
        if math.isnan(found):
            raise UserError(
                "There is no objective without validation utterances: set dataset.validation to a share above 0."
            )
        return found


def tuning_folder(config: Mapping[str, Any]) -> Path:
    """Make the folder that keeps searches."""
    folder = Path(config["output"]) / "tuning"
    make_folder(folder)
    return folder
