"""What a run or a sweep would build, by which key, and how long that would take by recorded costs. Nothing is built.

The pipeline itself says what it would make: it is run with a store that only looks. Dividing a corpus is cheap, so it is done, in a scratch folder.
Where the corpus itself is not decoded yet, its keys cannot be known; then what would be built is told apart by its config.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from speechforget.config.inputs import decisive
from speechforget.config.oracle import has_oracle
from speechforget.models.checkpoint import read_checkpoint
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, Store, key_of
from speechforget.store.dry_run import NotMadeError, dry_run
from speechforget.store.manifest import DONE, read_done

STAGES = ("split", "original", "oracle", "unlearned", "scores", "result")
# What a recorded cost must have in common with what it is to foretell.
ALIKE = {"original": ("model", "train"), "oracle": ("model", "train"), "unlearned": ("method",)}


@dataclass(frozen=True)
class Planned:
    """An artefact of a run. key: None where the corpus is not decoded yet; state: exists, unfinished or missing; seconds: None if unknown.

    identity: equal for equal artefacts, whether the key is known or not.
    """

    stage: str
    name: str
    key: str | None
    folder: str | None
    state: str
    seconds: float | None
    identity: str

    @property
    def exists(self) -> bool:
        """Whether there is nothing to do."""
        return self.state == "exists"


class Costs:
    """The seconds that finished artefacts below `root` took."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def records(self) -> list[tuple[str, Mapping[str, Any], float]]:
        """(stage, inputs, seconds) of every finished artefact."""
        return [
            record
            for stage in STAGES
            for folder in self.root.glob(f"{stage}/*")
            if (record := _record(stage, folder)) is not None
        ]

    def seconds(self, stage: str, inputs: Mapping[str, Any]) -> float | None:
        """The median of the artefacts that are most like the asked one; None where none is like it."""
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
        place = folder / "cost.json"
        return (
            stage,
            inputs,
            float(
                json.loads((place if place.exists() else folder / "about.json").read_text(encoding="utf-8"))["seconds"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):  # a damaged record foretells nothing
        return None


class Looker:
    """Stands in for a store: makes nothing there, notes what it was asked for. scratch: for a split, which must be made to be known."""

    def __init__(self, store: Store, costs: Costs, scratch: Store) -> None:
        self.store, self.costs, self.scratch = store, costs, scratch
        self.planned: list[Planned] = []

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """The artefact, were it made. Raises UserError as `Store.produce` does for one that is there and wrong."""
        key = key_of(stage, inputs)
        folder = self.store.folder(stage, name, key)
        exists = read_done(folder) is not None
        if exists:
            self.store.produce(stage, name, inputs, build)
        state = "exists" if exists else "unfinished" if folder.exists() else "missing"
        recorded = json.loads(json.dumps(inputs))
        self.planned.append(
            Planned(stage, name, key, str(folder), state, 0.0 if exists else self.costs.seconds(stage, recorded), key)
        )
        if stage == "split" and not exists:
            return self.scratch.produce(stage, name, inputs, build)
        return Artefact(folder, key, built=False)


def plan(config: Mapping[str, Any], costs: Costs | None = None, scratch: Path | None = None) -> list[Planned]:
    """The artefacts of one run in the order in which they are made. costs, scratch: to read records, and to divide a corpus, once for many runs.

    Raises what the run itself would raise for a user's mistake.
    """
    root = Path(config["output"])
    with tempfile.TemporaryDirectory() as place, dry_run():
        looker = Looker(Store(root, config["lock"]), costs or Costs(root), Store(scratch or Path(place)))
        pipeline = Pipeline(config, looker)
        try:
            if config["only"] is not None:
                pipeline.train(config["only"])
            else:
                pipeline.result()
        except Exception as error:
            if not _is_not_made(error):
                raise
            return list(_unknown(config, looker.costs))
    return looker.planned


def _is_not_made(error: BaseException | None) -> bool:
    """Also where Hydra wrapped it."""
    return error is not None and (isinstance(error, NotMadeError) or _is_not_made(error.__cause__))


def _unknown(config: Mapping[str, Any], costs: Costs) -> Iterator[Planned]:
    """What a run would make of a corpus that is not decoded yet."""
    model, train, method = (decisive(group, config[group]) for group in ("model", "train", "method"))
    corpus = {"dataset": config["dataset"]}
    original = {
        **corpus,
        "model": model,
        "train": train,
        "precision": config["trainer"]["precision"],
        "seed": config["seed"],
    }
    oracle = {**original, "task": config["task"]}
    if (checkpoint := read_checkpoint(config)) is not None:
        original = {**corpus, "model": model, "checkpoint": checkpoint.digest, "labels": list(checkpoint.labels)}
    unlearned = {
        **original,
        "task": config["task"],
        "precision": config["trainer"]["precision"],
        "seed": config["seed"],
        "method": method,
    }
    models = {"original": original, **({"oracle": oracle} if has_oracle(config) else {}), "unlearned": unlearned}
    wanted = [("split", corpus), *models.items(), *(("scores", {"of": of, **inputs}) for of, inputs in models.items())]
    wanted.append(("result", {**unlearned, "oracle": models.get("oracle"), "metrics": config["metrics"]}))
    for stage, inputs in wanted:
        if config["only"] in (None, stage):
            seconds = costs.seconds(stage, json.loads(json.dumps(inputs)))
            yield Planned(stage, config["dataset"]["name"], None, None, "missing", seconds, key_of(stage, inputs))


def describe(runs: Sequence[Sequence[Planned]]) -> str:
    """A plan of one or more runs as text: counts of each stage, every artefact with its state, and the time."""
    uses = Counter(identity for run in runs for identity in {planned.identity for planned in run})
    distinct = list({planned.identity: planned for run in runs for planned in run}.values())
    lines = [f"  {'stage':10} {'state':10} {'seconds':>8}  {'runs':>4}  artefact"]
    for planned in sorted(distinct, key=lambda planned: (STAGES.index(planned.stage), planned.state)):
        name = (
            f"{planned.name}-{planned.key[:12]}"
            if planned.key
            else f"{planned.name} (its key is known once the corpus is decoded)"
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
        f"By recorded costs {_minutes(sum(known))}{without}, one after another, and at least {_minutes(max(map(_chain, runs)))} however many jobs",
        "run at once. Each job takes some seconds more to start.",
    ]


def _chain(run: Sequence[Planned]) -> float:
    """Seconds of what cannot be done side by side: a result waits for an unlearned model, and that for the original."""
    longest = {
        stage: max((planned.seconds or 0.0 for planned in run if planned.stage == stage), default=0.0)
        for stage in STAGES
    }
    return (
        longest["split"]
        + max(longest["original"] + longest["unlearned"], longest["oracle"])
        + longest["scores"]
        + longest["result"]
    )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
