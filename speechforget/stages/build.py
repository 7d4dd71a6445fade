"""The work of one artefact that needs torch, in whatever process and on however many ranks: an order says what, a folder receives it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from speechforget.data.requests.select import Request, select
from speechforget.distributed import collectives
from speechforget.distributed.protocol import Order
from speechforget.errors import UserError
from speechforget.stages.preflight import rehearse
from speechforget.stages.sources import make_sources
from speechforget.stages.split import Data, divide
from speechforget.store import Store, verified
from speechforget.tracking.loggers import track_artefact
from speechforget.training.device import start_process
from speechforget.training.finite import FULL, Watch
from speechforget.training.loop import Job


def build(order: Order, data: Data | None = None, request: Request | None = None) -> None:
    """Builds what the order asks for. data, request: where this process has them already.

    Raises UserError when the corpus is not the one that the order is about.
    """
    config = order.config
    data = data or divide(config, Store.of(config))
    if data.key != order.split:
        raise UserError("The corpus changed while the run was under way: run the same command again.")
    folder = Path(order.folder)
    if order.model is not None and collectives.rank() == 0:
        for name in ("weights.safetensors", "model.json"):
            verified(Path(order.model), name)
    if order.stage == "scores":
        from speechforget.stages.score import score

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
    with (
        track_artefact(config, order.stage, folder, order.key, order.name)
        if collectives.rank() == 0
        else nullcontext() as tracker
    ):
        job = Job(folder, config["trainer"], int(config["seed"]), tracker, order.title, watch_of(config, order.stage))
        _fit(order, job, data, request)


def _fit(order: Order, job: Job, data: Data, request: Request | None) -> None:
    config = order.config
    sources = make_sources(config, data, request, start_process(config["trainer"]))
    if order.stage == "unlearned":
        from speechforget.stages.importance_cache import Keeper
        from speechforget.stages.unlearn import unlearn

        assert request is not None and order.model is not None
        forgotten = tuple(data.classes.index(name) for name in request.forgotten)
        keeper = Keeper(Store.of(config), Path(order.model), order.split, str(config["trainer"]["precision"]))
        unlearn(job, Path(order.model), sources, forgotten, config["method"], keeper)
        return
    from speechforget.stages.train import train

    if request is not None:
        sources.rows["train"] = sources.rows["retain"]
    train(job, sources, data.classes, config["dataset"], config["model"], config["train"])


def watch_of(config: Mapping[str, Any], stage: str) -> Watch:
    """The watch over a stage (original, oracle or unlearned) of a run's config."""
    precision = config["trainer"]["precision"]
    more = (
        ""
        if precision in FULL
        else f" The precision may be the cause, too: try trainer.precision=32-true instead of {precision}."
    )
    if stage == "original" and config["original"]["checkpoint"] is not None:
        return Watch("The original", "Its weights are those of original.checkpoint: give another one.")
    if stage != "unlearned":
        return Watch(
            f"The {stage}'s training", f"Lower train.learning_rate (it is {config['train']['learning_rate']:g}).{more}"
        )
    method = config["method"]
    numbers = {
        name: value for name, value in method.items() if isinstance(value, float) and not isinstance(value, bool)
    }
    rates = [f"method.{name} (it is {value:g})" for name, value in numbers.items() if name.endswith("learning_rate")]
    others = ", ".join(f"method.{name}={value:g}" for name, value in numbers.items() if name not in _of_every_method())
    advice = (
        f"Lower {' or '.join(rates)}."
        if rates
        else f"Choose weaker numbers than {others}."
        if others
        else "Choose another method."
    )
    return Watch(f"The method {method['name']}", advice + more)


def _of_every_method() -> set[str]:
    from speechforget.methods.base.switches import SWITCHES

    return set(SWITCHES)
