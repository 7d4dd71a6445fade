"""An artefact made again from what it records of itself, in a scratch folder: an independent check of what is served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from speechforget.distributed.group import close_team
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, Store, canonical, differences, key_of, provenance, words_for
from speechforget.store.difference import first_difference
from speechforget.store.graph import Node, ancestors

TOLERANCE = 1e-3  # where bits cannot be expected to be the same
SHOWN = 3


class _Rebuilding:
    """A store that makes one artefact again, in `store`, of parents that lie where they are."""

    def __init__(self, node: Node, store: Store) -> None:
        self.node, self.store = node, store
        self.parents = [parent for parent in ancestors([node]) if parent is not node]

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`. Raises UserError for a key that is neither the artefact's nor that of something it was made of."""
        key = key_of(stage, inputs)
        if parent := _served(self.parents, key, words_for(name)):
            return Artefact(parent.folder, key, built=False)
        # On the way to an importance an unlearned model is made, and to the original of a checkpoint a split, of which they know nothing.
        on_the_way = (stage, self.node.stage) in {("unlearned", "importance"), ("split", "original")}
        if key == self.node.key or (on_the_way and not any(parent.stage == stage for parent in self.parents)):
            return self.store.produce(stage, name, inputs, build)
        recorded = [node.inputs for node in (self.node, *self.parents) if node.stage == stage]
        asked = canonical(dict(inputs))
        changes = min((list(differences(before, asked)) for before in recorded), key=len, default=[])
        shown = (
            "; ".join(f"{place}: was {old!r}, is {new!r}" for place, old, new in changes[:SHOWN])
            or "nothing like it is recorded"
        )
        raise UserError(f"{self.node.folder} cannot be made again, since what makes its {stage} has changed ({shown}).")


def _served(parents: Iterable[Node], key: str, words: str) -> Node | None:
    """Of the folders with a key, which may lie under several names, the one that a run with these words reads."""
    found = [parent for parent in parents if parent.key == key and parent.state != "unfinished"]
    return next((parent for parent in found if parent.name == words), found[0] if found else None)


def rebuild(node: Node, output: Path, scratch: Path, threads: int | None = None) -> Path:
    """Makes an artefact of `output` again below `scratch`, by this code and the config of the run that made it; gives the new folder.

    threads: of the process, where not as many as then. Raises UserError where it does not record its config, where a parent is gone, and where code,
    config or recordings are not those that it was made of.
    """
    config = _config(node, output, scratch)
    if threads is not None:
        config = {**config, "trainer": {**config["trainer"], "threads": threads}}
    store = Store.of(config)
    pipeline = Pipeline(config, _Rebuilding(node, store))
    try:
        _make(pipeline, node)
    finally:
        close_team()
    found = sorted((store.root / node.stage).glob(f"*-{node.digits}"))
    if not found:
        raise UserError(
            f"{node.folder} cannot be made again: the run that it records makes no such {node.stage} today."
        )
    return found[0]


def _config(node: Node, output: Path, scratch: Path) -> dict[str, Any]:
    """Of the run that made an artefact, but for where it writes to: nothing is tracked, and recordings are where they were decoded."""
    config = _about(node).get("config")
    if not config:
        raise UserError(
            f"{node.folder} does not record the config that it was made with: an earlier version made it, and it cannot be made again."
        )
    cache = output / "cache" if Path(config["cache"]) == Path(config["output"]) / "cache" else config["cache"]
    quiet = {"logger": {"_target_": "speechforget.tracking.loggers.no_logger"}, "plan": False, "only": None}
    return {**config, **quiet, "output": str(scratch), "cache": str(cache)}


def _about(node: Node) -> dict[str, Any]:
    try:
        return dict(json.loads((node.folder / "about.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _make(pipeline: Pipeline, node: Node) -> None:
    if node.stage == "split":
        _ = pipeline.data
    elif node.stage in {"original", "oracle"}:
        pipeline.train(node.stage)
    elif node.stage in {"unlearned", "importance"}:
        pipeline.unlearn(pipeline.train("original"))
    elif node.stage == "scores":
        model = _served(node.parents, str((node.inputs or {}).get("model")), node.name)
        if model is None:
            raise UserError(f"{node.folder} cannot be made again: the model that it scores is gone.")
        pipeline.score(model.stage, Artefact(model.folder, str(model.key), built=False))
    else:
        pipeline.result()


def compared(node: Node, made: Path, threads: int | None = None, tolerance: float | None = None) -> tuple[bool, str]:
    """Whether what was made again is the same, and a sentence that says how far or where not.

    Bits must be the same where machine, versions and threads are; else numbers may be apart by `tolerance` (None: TOLERANCE), as a share of the
    largest of their array.
    """
    about, now = _about(node), provenance()
    trainer = about["config"]["trainer"]
    others = [name for name in ("host", "versions") if about.get(name) != now[name]]
    others += ["threads"] if threads not in (None, trainer["threads"]) else []
    others += ["a GPU"] if trainer["accelerator"] != "cpu" else []
    allowed = tolerance if tolerance is not None else TOLERANCE if others else 0.0
    found = first_difference(node.folder, made)
    if found is None:
        return True, "the same to the bit"
    if allowed:
        within = first_difference(node.folder, made, allowed)
        if within is None:
            return True, f"the same within {allowed:g}" + (f" (not to the bit: {', '.join(others)})" if others else "")
        found = within
    return False, f"differs: {found}"
