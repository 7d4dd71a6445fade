"""Stage: unlearn several requests one after another, and tell what each step does to the requests before it.

Each request is an ordinary run that continues the one before, so its models and its result are ordinary artefacts. Its
oracle is trained without all requests up to it: orders and methods that reach the same set share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from speechforget.config.evaluation import buildable, oracle_names
from speechforget.config.inputs import code_of
from speechforget.config.steps import at_once, step_configs
from speechforget.report.cost import passes_of
from speechforget.report.sequences import print_sequence, write_sequence
from speechforget.stages.maker import Maker
from speechforget.stages.sequence_figures import Scored, sequence_figures
from speechforget.store import Artefact, Producer

VERSION = 1  # raise it whenever the same inputs give another summary


class Run(Maker, Protocol):
    """Make one comparison, and the artefacts of its config."""

    name: str
    flags: list[str]
    compared: Mapping[str, Artefact]
    scores: Mapping[str, Artefact]

    def train(self, name: str) -> Artefact:
        """Make one model by name."""
        ...

    def result(self) -> Artefact:
        """Make or find the comparison."""
        ...

    def show(self, result: Artefact) -> float:
        """Print the comparison and return its objective."""
        ...


class MakeRun(Protocol):
    """Create a run; see `pipeline.Pipeline`."""

    def __call__(
        self, config: Mapping[str, Any], store: Producer, before: Any = None, beside: Any = None
    ) -> Any:  # a Run
        """Create the run of a config."""
        ...


class Steps:
    """Make the runs of a sequence, the run with all requests at once, and their summary."""

    def __init__(self, config: Mapping[str, Any], store: Producer, make: MakeRun) -> None:
        self.config, self.store = config, store
        self.runs: list[Run] = []
        for each in step_configs(config):
            self.runs.append(make(each, store, self.runs[-1] if self.runs else None))
        self.together: Run = make(at_once(config), store, beside=self.runs[0])

    @property
    def trained(self) -> dict[str, str]:
        """Return the key of each model that the key `only` can name -> its name there."""
        names = {(number, name): only for only, (number, name) in buildable(self.config).items()}
        return {
            key: names[number, name]
            for number, run in enumerate(self.runs)
            for key, name in run.trained.items()
            if (number, name) in names
        }

    def run(self) -> tuple[float, list[str]]:
        """Make all, print the comparisons and the summary; return the mean objective and the flags of all steps."""
        if (only := self.config["only"]) is not None:
            print(f"{only.capitalize()}: {self.train(only).folder}")
            return math.nan, []
        results = self.results()
        shown = [run.show(result) for run, result in zip(self.runs, results, strict=False)]
        summary = self.summary(results)
        print_sequence(summary.folder)
        print(f"Sequence: {summary.folder}")
        flags = [f"request {number}: {flag}" for number, run in enumerate(self.runs, 1) for flag in run.flags]
        return sum(shown) / len(shown), flags

    def train(self, only: str) -> Artefact:
        """Make the model that a value of the key `only` names."""
        number, name = buildable(self.config)[only]
        return self.runs[number].train(name)

    def results(self) -> list[Artefact]:
        """Make the result of each request, and that of all at once."""
        for run in (*self.runs, self.together):
            _ = run.request  # an impossible one is refused here, before anything is trained
        return [run.result() for run in (*self.runs, self.together)]

    def result(self) -> Artefact:
        """Make all artefacts up to the summary."""
        return self.summary(self.results())

    def summary(self, results: list[Artefact]) -> Artefact:
        """Make or find the summary. results: of the requests, and of all at once."""
        first = self.runs[0]
        inputs = {
            "version": VERSION,
            "results": [result.key for result in results],
            "scores": [{name: made.key for name, made in run.scores.items()} for run in (*self.runs, self.together)],
            "requests": [run.forgotten_ids for run in self.runs],
            "nonmembers": [run.nonmember_ids for run in self.runs],
            "code": code_of("sequence"),
            "seed": first.seed,
        }

        def build(folder: Path, _: str) -> None:
            write_sequence(folder, self._told(results))

        count = f"{len(self.runs)}requests"
        name = "-".join([self.config["method"]["name"], *first.words, count, f"seed{first.seed}"])
        return self.store.produce("sequence", name, inputs, build)

    def _told(self, results: list[Artefact]) -> dict[str, Any]:
        """Return the summary as JSON."""
        config = self.config
        scores = [{name: made.folder for name, made in run.scores.items()} for run in (*self.runs, self.together)]
        first, asked = self.runs[0], [run.request for run in self.runs]
        scored = Scored(first.data, asked, scores[:-1], scores[-1], first.seed)
        requests = [
            {**run.request.to_json(run.data.table), "result": result.folder.name, "key": result.key}
            for run, result in zip(self.runs, results, strict=False)
        ]
        return {
            **dict(zip(("dataset", "label", "model"), first.words, strict=True)),
            "method": config["method"]["name"],
            "seed": first.seed,
            "keep_forget": bool(config["task"]["keep_forget"]),
            "oracles": len(oracle_names(config)),
            "requests": requests,
            **sequence_figures(scored),
            "at_once_result": results[-1].folder.name,
            "cost": self._costs(),
        }

    def _costs(self) -> dict[str, dict[str, float | int | None]]:
        """Return seconds and passes of all steps together, of the request at once, and of the oracles."""
        steps = [run.compared["unlearned"].cost for run in self.runs]
        oracles = [run.compared["oracle"].cost for run in self.runs if "oracle" in run.compared]
        found = {"steps": steps, "at_once": [self.together.compared["unlearned"].cost]}
        found |= {"oracles": oracles} if oracles else {}
        return {name: {"seconds": _sum("seconds", each), "passes": _passes(each)} for name, each in found.items()}


def _sum(name: str, costs: list[dict[str, Any]]) -> float:
    return float(sum(cost[name] for cost in costs))


def _passes(costs: list[dict[str, Any]]) -> int | None:
    found = [passes_of(cost) for cost in costs]
    return None if any(each is None for each in found) else int(sum(found))  # type: ignore[arg-type]
