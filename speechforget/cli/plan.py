"""Plan a run or a sweep: which artefacts exist, which would be built, and how long that takes by recorded costs.

The real pipeline runs on a store that builds nothing. Splitting a corpus is cheap, so it is done, in a scratch folder.
The keys of a corpus that is not decoded are unknown; its artefacts are then told apart by their configs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speechforget.config.evaluation import Training, has_pairs
from speechforget.data.groups import AUTO
from speechforget.data.requests.pool import Pool
from speechforget.data.requests.select import Request
from speechforget.data.requests.steps import is_sequence
from speechforget.pipeline import Pipeline
from speechforget.stages.sequence import Steps
from speechforget.stages.split import Data
from speechforget.store import Artefact, OneByOne, Store, graph, key_of
from speechforget.store.dry_run import NotMadeError, dry_run
from speechforget.store.manifest import DONE, read_done

STAGES = tuple(stage for stage in graph.STAGES if stage != "importance")
# Inputs that a recorded cost must share with the artefact whose cost it estimates.
ALIKE = {"original": ("model", "train"), "oracle": ("model", "train"), "unlearned": ("method",)}


@dataclass(frozen=True)
class Planned:
    """An artefact of a run. key: None if the corpus is not decoded. state: exists, unfinished or missing.

    seconds: estimate, None if unknown. identity: equal for equal artefacts, also without a key. only: the value of the
    config key `only` that builds just this model; None for other artefacts.
    """

    stage: str
    name: str
    key: str | None
    folder: str | None
    state: str
    seconds: float | None
    identity: str
    only: str | None = None

    @property
    def exists(self) -> bool:
        """Return whether there is nothing to do."""
        return self.state == "exists"


class Costs:
    """Estimate seconds from the finished artefacts of the output folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def records(self) -> list[tuple[str, Mapping[str, Any], float]]:
        """Return (stage, inputs, seconds) of every finished artefact."""
        return [
            record
            for stage in STAGES
            for folder in self.root.glob(f"{stage}/*")
            if (record := _record(stage, folder)) is not None
        ]

    def seconds(self, stage: str, inputs: Mapping[str, Any]) -> float | None:
        """Return the median of the most similar artefacts; None if there is no similar one."""
        kin = ("original", "oracle") if stage in ("original", "oracle") else (stage,)
        alike = [
            record
            for record in self.records
            if record[0] in kin and all(record[1].get(name) == inputs.get(name) for name in ALIKE.get(stage, ()))
        ]
        if not alike:
            return None
        likeness = [sum(inputs.get(name) == value for name, value in recorded.items()) for _, recorded, _ in alike]
        return statistics.median(
            seconds for (_, _, seconds), common in zip(alike, likeness, strict=True) if common == max(likeness)
        )


def _record(stage: str, folder: Path) -> tuple[str, Mapping[str, Any], float] | None:
    if not (folder / DONE).exists():
        return None
    try:
        inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))["inputs"]
        cost = folder / "cost.json"
        return (
            stage,
            inputs,
            float(
                json.loads((cost if cost.exists() else folder / "about.json").read_text(encoding="utf-8"))["seconds"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):  # a damaged record gives no estimate
        return None


class Planner(OneByOne):
    """Stand in for a store: record what is asked for and make nothing but splits, in the store `scratch`.

    known: whether the keys are those of a real run.
    """

    def __init__(self, store: Store, costs: Costs, scratch: Store, known: bool = True) -> None:
        self.store, self.costs, self.scratch, self.known = store, costs, scratch, known
        self.planned: list[Planned] = []

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Return the artefact as if it existed. Raises UserError for a wrong one, as `Store.produce` does."""
        key = key_of(stage, inputs)
        folder = self.store.folder(stage, name, key)
        recorded = json.loads(json.dumps(inputs))
        if not self.known:
            seconds = self.costs.seconds(stage, recorded)
            self.planned.append(Planned(stage, name, None, None, "missing", seconds, key))
            return Artefact(folder, key, built=False)
        exists = read_done(folder) is not None
        if exists:
            self.store.produce(stage, name, inputs, build)
        state = "exists" if exists else "unfinished" if folder.exists() else "missing"
        self.planned.append(
            Planned(stage, name, key, str(folder), state, 0.0 if exists else self.costs.seconds(stage, recorded), key)
        )
        if stage == "split" and not exists:
            return self.scratch.produce(stage, name, inputs, build)
        return Artefact(folder, key, built=False)


def plan(config: Mapping[str, Any], costs: Costs | None = None, scratch: Path | None = None) -> list[Planned]:
    """Return the artefacts of one run in the order in which they are made.

    costs, scratch: given, records are read and a corpus is split once for many runs.
    Raises what the run itself would raise for a user's mistake.
    """
    root = Path(config["output"])
    store, costs = Store(root, config["lock"]), costs or Costs(root)
    with tempfile.TemporaryDirectory() as temporary, dry_run():
        planner = Planner(store, costs, Store(scratch or Path(temporary)))
        pipeline = _run_of(config, planner, Pipeline)
        try:
            _follow(pipeline)
        except Exception as error:
            if not _is_not_made(error):
                raise
            planner = Planner(store, costs, planner.scratch, known=False)
            pipeline = _run_of(config, planner, _Undecoded)
            _follow(pipeline)
    return [replace(planned, only=pipeline.trained.get(planned.identity)) for planned in planner.planned]


def _run_of(config: Mapping[str, Any], store: Planner, make: type[Pipeline]) -> Pipeline | Steps:
    """Return the run of a config, or the runs of its requests."""
    return Steps(config, store, make) if is_sequence(config["task"]) else make(config, store)


def _follow(pipeline: Pipeline | Steps) -> None:
    """Go through all artefacts of a run, or only the one of `only`."""
    if (only := pipeline.config["only"]) is not None:
        pipeline.train(only)
    else:
        pipeline.result()


def _is_not_made(error: BaseException | None) -> bool:
    """Return whether it is a NotMadeError, or one that Hydra wrapped."""
    return error is not None and (isinstance(error, NotMadeError) or _is_not_made(error.__cause__))


class _Undecoded(Pipeline):
    """The same pipeline before the corpus is decoded: hashes of the config stand in for split and request."""

    @cached_property
    def data(self) -> Data:
        """Return an empty corpus with a key that depends on the config of the dataset."""
        inputs = {"dataset": self.dataset}
        split = self.store.produce("split", self.dataset["name"], inputs, lambda *_: None)
        table = pd.DataFrame({"id": [], "label": [], "subset": []}, dtype=str)
        classes = [] if self.checkpoint is None else list(self.checkpoint.labels)
        return Data(None, table, classes, split.key, inputs)  # type: ignore[arg-type]

    @cached_property
    def request(self) -> Request:
        """Return an empty request."""
        none = np.zeros(0, dtype=np.int64)
        return Request(none, none, (), self.task["kind"])

    @cached_property
    def pool(self) -> Pool | None:
        """Return a pool without utterances."""
        pairs = self.config["evaluation"]["pairs"]
        empty, none = np.zeros(0, dtype=np.int64), np.zeros((pairs, 0), dtype=np.int64)
        return Pool(empty, none, empty, self.task["kind"], "") if has_pairs(self.config) else None

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Return the columns that are named: which of them the corpus has is not known."""
        asked = self.config["evaluation"].get("groups", ())
        return () if asked == AUTO else tuple(asked)

    def left_out(self, training: Training) -> str | None:
        """Return a hash of the config of the request."""
        part = {"part": training.part} if training.part else {}
        return None if training.whole else key_of("request", {"task": self.task, **part})

    @cached_property
    def untried(self) -> str | None:
        """Return None: the size of the request is not known."""
        return None

    def check_applicable(self) -> None:
        """Check nothing: the fingerprint of the corpus is not known."""


def describe(runs: Sequence[Sequence[Planned]]) -> str:
    """Return the plan of one or more runs as text: every artefact with its state, counts by stage, and the time."""
    uses = Counter(identity for run in runs for identity in {planned.identity for planned in run})
    distinct = list({planned.identity: planned for run in runs for planned in run}.values())
    lines = [f"  {'stage':10} {'state':10} {'seconds':>8}  {'runs':>4}  artefact"]
    for planned in sorted(distinct, key=lambda planned: (STAGES.index(planned.stage), planned.state)):
        name = (
            f"{planned.name}-{planned.key[:12]}"
            if planned.key
            else f"{planned.name} (its key is not known before the corpus is decoded)"
        )
        seconds = "" if planned.exists else "?" if planned.seconds is None else f"{planned.seconds:.1f}"
        lines.append(f"  {planned.stage:10} {planned.state:10} {seconds:>8}  {uses[planned.identity]:4}  {name}")
    lines.append(f"Plan of {len(runs)} {'run' if len(runs) == 1 else 'runs'}:")
    for stage in STAGES:
        of_stage = [planned for planned in distinct if planned.stage == stage]
        if of_stage:
            there = sum(planned.exists for planned in of_stage)
            lines.append(f"  {stage:10} {there:4} exist, {len(of_stage) - there:4} to build")
    return "\n".join([*lines, *_times(runs, [planned for planned in distinct if not planned.exists])])


def _times(runs: Sequence[Sequence[Planned]], missing: Sequence[Planned]) -> list[str]:
    known = [planned.seconds for planned in missing if planned.seconds is not None]
    if not missing:
        return ["Everything exists."]
    if not known:
        return ["Nothing like it has been made in this output folder, so there is no estimate of the time."]
    unknown = len(missing) - len(known)
    without = f" and {unknown} {'artefact' if unknown == 1 else 'artefacts'} of unknown cost" if unknown else ""
    return [
        f"By recorded costs {_minutes(sum(known))}{without}, one after another, "
        f"and at least {_minutes(max(map(_chain, runs)))} with any number of jobs",
        "at once. Each job takes some seconds more to start.",
    ]


def _chain(run: Sequence[Planned]) -> float:
    """Return the seconds of the longest chain of artefacts that wait for each other."""
    longest = {
        stage: max((planned.seconds or 0.0 for planned in run if planned.stage == stage), default=0.0)
        for stage in STAGES
    }
    return (
        longest["split"]
        + max(longest["original"] + longest["unlearned"], longest["oracle"])
        + longest["scores"]
        + longest["attack"]
        + longest["result"]
    )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
