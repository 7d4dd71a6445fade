"""Rebuild an artefact from its own record in a scratch folder, to check the stored one independently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechforget.config.evaluation import trainings
from speechforget.distributed.group import close_team
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.attack_models import attack
from speechforget.stages.audit import audit
from speechforget.stages.kept_epochs import keep_epoch
from speechforget.stages.power import power
from speechforget.stages.sequence import Steps
from speechforget.stages.untrained import untrained
from speechforget.store import Artefact, OneByOne, Store, canonical, differences, key_of, provenance, words_for
from speechforget.store.difference import first_difference
from speechforget.store.files import read_json
from speechforget.store.graph import Node, ancestors

# Where equal bits cannot be expected: largest allowed difference, as a share of the largest value.
TOLERANCE = 1e-3
SHOWN = 3


class _RebuildStore(OneByOne):
    """Rebuild one artefact in `store`; serve its parents from where they are."""

    def __init__(self, node: Node, store: Store) -> None:
        self.node, self.store = node, store
        self.parents = [parent for parent in ancestors([node]) if parent is not node]

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`. Raises UserError for a key that is neither the artefact's nor an ancestor's."""
        key = key_of(stage, inputs)
        if parent := _served(self.parents, key, words_for(name)):
            return Artefact(parent.folder, key, built=False)
        # Building an importance also builds an unlearned model, and importing a checkpoint as an original also builds a
        # split. Neither is a parent, so no record names it.
        on_the_way = (stage, self.node.stage) in {
            ("unlearned", "importance"),
            ("split", "original"),
            ("kept_epoch", "original"),
        }
        if key == self.node.key or (on_the_way and not any(parent.stage == stage for parent in self.parents)):
            return self.store.produce(stage, name, inputs, build)
        recorded = [node.inputs for node in (self.node, *self.parents) if node.stage == stage]
        asked = canonical(dict(inputs))
        changes = min((list(differences(before, asked)) for before in recorded), key=len, default=[])
        shown = (
            "; ".join(f"{path}: was {old!r}, is {new!r}" for path, old, new in changes[:SHOWN])
            or "no such artefact is recorded"
        )
        raise UserError(
            f"{self.node.folder} cannot be rebuilt, because the inputs of its {stage} have changed ({shown}): "
            "restore the recordings, the config, or the code (`show` prints the commit)."
        )


def _served(parents: Iterable[Node], key: str, words: str) -> Node | None:
    """Return the folder that a run with this key and these words reads. Several folders may have one key."""
    found = [parent for parent in parents if parent.key == key and parent.state != "unfinished"]
    return next((parent for parent in found if parent.name == words), found[0] if found else None)


def rebuild(node: Node, output: Path, scratch: Path, threads: int | None = None) -> Path:
    """Rebuild an artefact of `output` below `scratch` with the current code and its config; return its folder.

    threads: number of threads of the process, if not the recorded one.
    Raises UserError if the artefact does not record its config, if a parent is gone, or if code, config or recordings
    have changed.
    """
    config = _config(node, output, scratch)
    if threads is not None:
        config = {**config, "trainer": {**config["trainer"], "threads": threads}}
    store = Store.of(config)
    pipeline = Pipeline(config, _RebuildStore(node, store))
    try:
        _make(pipeline, node)
    finally:
        close_team()
    found = sorted((store.root / node.stage).glob(f"*-{node.digits}"))
    if not found:
        raise UserError(
            f"{node.folder} cannot be rebuilt: with the current code, its recorded config gives no such {node.stage}."
        )
    return found[0]


def _config(node: Node, output: Path, scratch: Path) -> dict[str, Any]:
    """Return the recorded config of an artefact, but write to `scratch`, track nothing and reuse decoded audio."""
    config = _about(node).get("config")
    if not config:
        raise UserError(f"{node.folder} cannot be rebuilt: an earlier version built it and did not record the config.")
    cache = output / "cache" if Path(config["cache"]) == Path(config["output"]) / "cache" else config["cache"]
    config = {**config, "original": {**config["original"], "keep_epochs": []}}
    quiet = {"logger": {"_target_": "speechforget.tracking.loggers.no_logger"}, "plan": False, "only": None}
    return {**config, **quiet, "output": str(scratch), "cache": str(cache)}


def _about(node: Node) -> dict[str, Any]:
    return read_json(node.folder / "about.json")


def _name_of(pipeline: Pipeline, node: Node) -> str:
    """Return the name of a trained model in `trainings`, found by what it was trained without and by its seed."""
    recorded = node.inputs or {}
    for name, training in trainings(pipeline.config).items():
        told = (training.stage, training.seed, pipeline.left_out(training))
        if told == (node.stage, recorded.get("seed", training.seed), recorded.get("without")):
            return name
    return node.stage


def _make(pipeline: Pipeline, node: Node) -> None:
    if node.stage == "split":
        _ = pipeline.data
    elif node.stage == "kept_epoch":
        recorded = node.inputs or {}
        trained = [one for one in trainings(pipeline.config).values() if one.stage == "original"]
        keys = {key_of("original", pipeline.inputs_of(one)): one for one in trained}
        keep_epoch(pipeline, keys.get(str(recorded.get("original")), trained[0]), int(recorded["epoch"]))
    elif node.stage in {"original", "oracle"}:
        pipeline.train(_name_of(pipeline, node))
    elif node.stage in {"unlearned", "importance"}:
        original = next((parent for parent in node.parents if parent.stage == "original"), None)
        name = "original" if original is None else _name_of(pipeline, original)
        pipeline.unlearn(pipeline.train(name), trainings(pipeline.config)[name]._replace(stage="unlearned"))
    elif node.stage in {"audit", "power", "untrained"}:
        {"audit": audit, "power": power, "untrained": untrained}[node.stage](pipeline)
    elif node.stage in {"scores", "attack"}:
        inputs = node.inputs or {}
        found = _served(node.parents, str(inputs.get("model")), node.name)
        if found is None:
            raise UserError(f"{node.folder} cannot be rebuilt: the model that it measures is gone.")
        model = Artefact(found.folder, str(found.key), built=False)
        if node.stage == "scores":
            pipeline.score(found.stage, model)
        else:
            attack(pipeline, model, inputs["attack"])
    elif node.stage == "sequence":
        Steps(pipeline.config, pipeline.store, Pipeline).result()
    else:
        pipeline.result()


def _together(folder: Path) -> bool:
    """Say whether the model was trained at once with others, which changes rounding; no if nothing is known."""
    cost = read_json(folder / "cost.json")
    return int((cost.get("machine") or {}).get("together", 1)) > 1


def compare(node: Node, made: Path, threads: int | None = None, tolerance: float | None = None) -> tuple[bool, str]:
    """Compare a rebuilt artefact with the stored one; return whether they agree, and a sentence with the details.

    With the same machine, versions and threads, the bits must be equal. Otherwise numbers may differ by `tolerance`
    (None: TOLERANCE), as a share of the largest of their array.
    """
    about, now = _about(node), provenance()
    trainer = about["config"]["trainer"]
    others = [name for name in ("host", "versions") if about.get(name) != now[name]]
    others += ["threads"] if threads not in (None, trainer["threads"]) else []
    others += ["a GPU"] if trainer["accelerator"] != "cpu" else []
    others += ["trained with other models at once"] if _together(node.folder) else []
    allowed = tolerance if tolerance is not None else TOLERANCE if others else 0.0
    found = first_difference(node.folder, made)
    if found is None:
        return True, "equal to the bit"
    if allowed:
        within = first_difference(node.folder, made, allowed)
        if within is None:
            return True, f"equal within {allowed:g}" + (f" (not to the bit: {', '.join(others)})" if others else "")
        found = within
    return False, f"differs: {found}"
