"""Build one artefact that needs torch, in any process and on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from speechforget.config.evaluation import Training, request_of
from speechforget.data.requests.pool import draw_pool
from speechforget.data.requests.select import Request, select
from speechforget.distributed import collectives
from speechforget.distributed.protocol import Order
from speechforget.errors import UserError
from speechforget.stages.preflight import preflight
from speechforget.stages.sources import make_sources, rows_of
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
    training = Training(order.stage, int(config["seed"]), order.part)
    if request is None and not training.whole:
        request = requested(training, data, config)
    if order.stage == "unlearned":
        assert request is not None
        _unlearn(order, data, request)
        return
    errors: list[UserError | None] = []
    build_models({0: (order, request)}, data, lambda _, error: errors.append(error))
    if errors[0] is not None:
        raise errors[0]


def build_models(orders: Mapping[int, tuple[Order, Request | None]], data: Data, ended: Ended) -> None:
    """Train originals and oracles of one architecture and recipe.

    orders: by number, with what each model is trained without. ended: called with the number of each model as soon as
    it is written, or with its error.
    """
    from speechforget.stages.train_many import Job, train_many

    config = next(iter(orders.values()))[0].config
    preflight(config)
    everyone = make_sources(config, data, None, start_process(config["trainer"]))
    numbers, trackers, jobs = list(orders), [ExitStack() for _ in orders], []

    def end(place: int, error: UserError | None) -> None:
        trackers[place].__exit__(None if error is None else type(error), error, None)
        ended(numbers[place], error)

    with ExitStack() as opened:
        for (order, request), tracker in zip(orders.values(), trackers, strict=True):
            settings = settings_of(order, opened.enter_context(tracker))
            rows = rows_of(data, request)
            jobs.append(Job(settings, everyone.with_rows(**{**rows, "train": rows.get("retain", rows["train"])})))
        train_many(jobs, data.classes, config["dataset"], config["model"], config["train"], end, Path(config["cache"]))


def settings_of(order: Order, tracked: ExitStack) -> FitSettings:
    """Return the settings of a fit; its tracker, of rank 0, stays open in `tracked`."""
    config, folder = order.config, Path(order.folder)
    tracker = (
        tracked.enter_context(track_artefact(config, order.stage, folder, order.key, order.name))
        if collectives.rank() == 0
        else None
    )
    watch = watch_of(config, order.stage)
    return FitSettings(folder, config["trainer"], int(config["seed"]), tracker, order.title, watch)


def requested(training: Training, data: Data, config: Mapping[str, Any]) -> Request:
    """Select what a model is trained without, or what it forgets."""
    request = select(data.table, config["task"], data.left_out)
    if training.part is None:
        return request
    pool = draw_pool(data.table, request, config["task"], config["evaluation"]["pairs"])
    return request_of(training, request, pool)


def _unlearn(order: Order, data: Data, request: Request) -> None:
    from speechforget.stages.importance_cache import ImportanceCache
    from speechforget.stages.unlearn import unlearn

    config = order.config
    assert order.model is not None
    preflight(config)
    with ExitStack() as tracked:
        settings = settings_of(order, tracked)
        sources = make_sources(config, data, request, start_process(config["trainer"]))
        forgotten = tuple(data.classes.index(name) for name in request.forgotten)
        cache = ImportanceCache(Store.of(config), Path(order.model), order.split, str(config["trainer"]["precision"]))
        unlearn(settings, Path(order.model), sources, forgotten, config["method"], cache)


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
