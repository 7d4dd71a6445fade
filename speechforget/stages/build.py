"""Build one artefact that needs torch, in any process and on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.data.requests.select import Request, select
from speechforget.distributed import collectives
from speechforget.distributed.protocol import Order
from speechforget.errors import UserError
from speechforget.stages.preflight import preflight
from speechforget.stages.sources import make_sources
from speechforget.stages.split import Data, split_corpus
from speechforget.store import Ended, Store, verified
from speechforget.tracking.loggers import track_artefact
from speechforget.training.device import start_process
from speechforget.training.finite import FULL, Watch
from speechforget.training.loop import FitSettings


def build(order: Order, data: Data | None = None, request: Request | None = None) -> None:
    """Build what the order asks for, in its folder. data, request: given if this process has them already.

    Raises UserError if the corpus is not the one of the order.
    """
    config = order.config
    data = data or split_corpus(config, Store.of(config))
    if data.key != order.split:
        raise UserError("The corpus changed during the run: run the same command again.")
    folder = Path(order.folder)
    if order.model is not None and collectives.rank() == 0:
        for name in ("weights.safetensors", "model.json"):
            verified(Path(order.model), name)
    if order.stage == "scores":
        from speechforget.stages.score import score

        assert order.model is not None
        sources = make_sources(config, data, None, start_process(config["trainer"]))
        with watch_of(config, Path(order.model).parent.name).watched("while it was scored"):
            score(folder, Path(order.model), sources, config["trainer"], order.title, data.key)
        return
    if order.stage == "original" or order.rows is not None:
        request = None
    elif request is None:
        request = select(data.table, config["task"], data.left_out)
    preflight(config)
    with (
        track_artefact(config, order.stage, folder, order.key, order.name)
        if collectives.rank() == 0
        else nullcontext() as tracker
    ):
        settings = FitSettings(
            folder, config["trainer"], int(config["seed"]), tracker, order.title, watch_of(config, order.stage)
        )
        _fit(order, settings, data, request)


def _fit(order: Order, settings: FitSettings, data: Data, request: Request | None) -> None:
    config = order.config
    sources = make_sources(config, data, request, start_process(config["trainer"]))
    if order.stage == "unlearned":
        from speechforget.stages.importance_cache import ImportanceCache
        from speechforget.stages.unlearn import unlearn

        assert request is not None and order.model is not None
        forgotten = tuple(data.classes.index(name) for name in request.forgotten)
        cache = ImportanceCache(Store.of(config), Path(order.model), order.split, str(config["trainer"]["precision"]))
        unlearn(settings, Path(order.model), sources, forgotten, config["method"], cache)
        return
    from speechforget.stages.train import train

    if order.rows is not None or request is not None:
        sources = sources.with_rows(train=sources.rows["retain"] if order.rows is None else _rows(order))
    train(settings, sources, data.classes, config["dataset"], config["model"], config["train"])


def build_many(orders: Mapping[int, Order], data: Data, ended: Ended) -> None:
    """Build originals and oracles of one architecture and recipe, in this process; every order has `rows`.

    ended: called with the number of each order as soon as its model is written, or with its error.
    """
    from speechforget.stages.train_many import Job, train_many

    config = next(iter(orders.values())).config
    preflight(config)
    everyone = make_sources(config, data, None, start_process(config["trainer"]))
    numbers, trackers, jobs = list(orders), [ExitStack() for _ in orders], []

    def end(place: int, error: UserError | None) -> None:
        trackers[place].__exit__(type(error) if error else None, error, None)
        ended(numbers[place], error)

    with ExitStack() as open_ones:
        for order, tracker in zip(orders.values(), trackers, strict=True):
            open_ones.enter_context(tracker)
            shown = tracker.enter_context(
                track_artefact(order.config, order.stage, Path(order.folder), order.key, order.name)
            )
            watch = watch_of(order.config, order.stage)
            settings = FitSettings(
                Path(order.folder), config["trainer"], int(order.config["seed"]), shown, order.title, watch
            )
            jobs.append(Job(settings, everyone.with_rows(train=_rows(order))))
        train_many(jobs, data.classes, config["dataset"], config["model"], config["train"], end, Path(config["cache"]))


def _rows(order: Order) -> NDArray[np.int64]:
    return np.array(order.rows, dtype=np.int64)


def watch_of(config: Mapping[str, Any], stage: str) -> Watch:
    """Return the watch over a stage (original, oracle or unlearned), with advice for this config."""
    precision = config["trainer"]["precision"]
    more = (
        ""
        if precision in FULL
        else f" The precision may also be the cause: try trainer.precision=32-true instead of {precision}."
    )
    if stage == "original" and config["original"]["checkpoint"] is not None:
        return Watch("The original", "Its weights come from original.checkpoint: give another checkpoint.")
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
        else f"Choose weaker values than {others}."
        if others
        else "Choose another method."
    )
    return Watch(f"The method {method['name']}", advice + more)


def _of_every_method() -> set[str]:
    from speechforget.methods.base.switches import SWITCHES

    return set(SWITCHES)
