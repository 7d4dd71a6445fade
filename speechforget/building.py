"""The work of one artefact that needs torch, in whatever process and on however many ranks: an order says what, a folder receives it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget import ranks
from speechforget.data.request import Request, select
from speechforget.dividing import Data, divide, make_sources
from speechforget.errors import UserError
from speechforget.finite import watch_of
from speechforget.fitting import Job
from speechforget.launch import start_process
from speechforget.loading import rehearse
from speechforget.store import Store, verified
from speechforget.tracking import track_artefact


@dataclass(frozen=True)
class Order:
    """What to build; plain values, so it can be sent to another process.

    stage: original, oracle, unlearned or scores. config: the whole resolved config of the run. folder, key, name: the artefact's.
    split: the key of the divided corpus that the order is about. title: for the progress bar. model: the folder of the model that the work
    starts from, if any.
    """

    stage: str
    config: Mapping[str, Any]
    folder: str
    key: str
    name: str
    split: str
    title: str
    model: str | None = None


def build(order: Order, data: Data | None = None, request: Request | None = None) -> None:
    """Builds what the order asks for. data, request: where this process has them already.

    Raises UserError when the corpus is not the one that the order is about.
    """
    config = order.config
    data = data or divide(config, Store.of(config))
    if data.key != order.split:
        raise UserError("The corpus changed while the run was under way: run the same command again.")
    folder = Path(order.folder)
    if order.model is not None and ranks.rank() == 0:
        for name in ("weights.safetensors", "model.json"):
            verified(Path(order.model), name)
    if order.stage == "scores":
        from speechforget.scoring import score

        assert order.model is not None
        sources = make_sources(config, data, None, start_process(config["trainer"]))
        with watch_of(config, Path(order.model).parent.name).watched("where it is scored"):
            score(folder, Path(order.model), sources, config["trainer"], order.title, data.key)
        return
    if order.stage == "original":
        request = None
    elif request is None:
        request = select(data.table, config["task"], data.left_out)
    rehearse(config)
    with track_artefact(config, order.stage, folder, order.key, order.name) if ranks.rank() == 0 else nullcontext() as tracker:
        job = Job(folder, config["trainer"], int(config["seed"]), tracker, order.title, watch_of(config, order.stage))
        _fit(order, job, data, request)


def _fit(order: Order, job: Job, data: Data, request: Request | None) -> None:
    config = order.config
    sources = make_sources(config, data, request, start_process(config["trainer"]))
    if order.stage == "unlearned":
        from speechforget.keeping import Keeper
        from speechforget.unlearning import unlearn

        assert request is not None and order.model is not None
        forgotten = tuple(data.classes.index(name) for name in request.forgotten)
        keeper = Keeper(Store.of(config), Path(order.model), order.split, str(config["trainer"]["precision"]))
        unlearn(job, Path(order.model), sources, forgotten, config["method"], keeper)
        return
    from speechforget.training import train

    if request is not None:
        sources.rows["train"] = sources.rows["retain"]
    train(job, sources, data.classes, config["dataset"], config["model"], config["train"])
