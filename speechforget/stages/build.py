"""Build one artefact that needs torch, in any process and on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from speechforget.store import Ended, Later, Store, verified
from speechforget.tracking.curves import read_curve
from speechforget.tracking.loggers import track_artefact
from speechforget.training.checkpoint import STATE
from speechforget.training.device import start_process
from speechforget.training.finite import FULL, Watch
from speechforget.training.loop import FitSettings

# What a training of another request continues from: see `stages.kept_epochs` and `stages.sisa`.
STATES = (STATE, "sisa.json", "shards.npy", "slices/*/weights.safetensors")


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
        for name in _read_of(Path(order.model), order.stage):
            verified(Path(order.model), name)
    if order.stage == "scores":
        from speechforget.stages.score import score

        assert order.model is not None
        sources = make_sources(config, data, None, start_process(config["trainer"]), taught=False)
        with watch_of(config, Path(order.model).parent.name).watched("while it was scored"):
            score(folder, Path(order.model), sources, config["trainer"], order.title, data.key)
        return
    training = Training(order.stage, int(config["seed"]), order.part)
    if request is None and not training.whole:
        request = requested(training, data, config)
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


def _read_of(model: Path, stage: str) -> list[str]:
    """Name the files of a model that a stage reads: of states and slices there may be none."""
    states = [] if stage == "scores" else [path for pattern in STATES for path in sorted(model.glob(pattern))]
    return ["weights.safetensors", "model.json", *(path.relative_to(model).as_posix() for path in states)]


def build_many(
    orders: Sequence[Order], data: Data, requests: Sequence[Request | None], ended: Ended, later: Later
) -> None:
    """Train the models of several orders, which share all but the rows and the seed, in this process.

    requests: what each is trained without; None: nothing. ended, later: see `stages.train_many`. A tracker gets the
    learning curve of a model at its end.
    """
    from speechforget.stages.train_many import Job, train_many

    config = orders[0].config
    preflight(config)
    sources = make_sources(config, data, None, start_process(config["trainer"]))
    jobs = []
    for order, request in zip(orders, requests, strict=True):
        seed, watch = int(order.config["seed"]), watch_of(config, order.stage)
        settings = FitSettings(Path(order.folder), config["trainer"], seed, None, order.title, watch)
        rows = rows_of(data, request)
        jobs.append(Job(settings, sources.with_rows(**{**rows, "train": rows.get("oracle", rows["train"])})))

    def shown(number: int, error: UserError | None) -> None:
        order = orders[number]
        if error is None:
            with track_artefact(order.config, order.stage, Path(order.folder), order.key, order.name) as tracker:
                if tracker is not None:
                    for row, values in enumerate(read_curve(Path(order.folder))):
                        tracker.point(row, values)
        ended(number, error)

    memory = Path(config["cache"])
    train_many(jobs, data.outputs, config["dataset"], config["model"], config["train"], shown, memory, later)


def requested(training: Training, data: Data, config: Mapping[str, Any]) -> Request | None:
    """Select what a model is trained without, or what it forgets."""
    request, pool = select(data.table, config["task"], data.left_out), None
    if training.part is not None:
        pool = draw_pool(data.table, request, config["task"], config["evaluation"]["pairs"])
    return request_of(training, request, pool)


def _fit(order: Order, settings: FitSettings, data: Data, request: Request | None) -> None:
    config = order.config
    sources = make_sources(config, data, request, start_process(config["trainer"]))
    if order.stage == "unlearned":
        from speechforget.stages.importance_cache import ImportanceCache
        from speechforget.stages.unlearn import unlearn

        assert request is not None and order.model is not None
        forgotten = tuple(data.classes.index(name) for name in request.forgotten)
        recipe = config["train"] if config["original"]["checkpoint"] is None else None
        cache = ImportanceCache(Store.of(config), Path(order.model), order.split, str(config["trainer"]["precision"]))
        how = config["method"], cache, recipe, request.attribute
        unlearn(settings, Path(order.model), sources, forgotten, *how)
        return
    from speechforget.stages.sisa import train_ensemble
    from speechforget.stages.train import train

    if request is not None:
        sources.rows["train"] = sources.rows["oracle"]
    if "sisa" in config["train"]:
        train_ensemble(settings, sources, data, config)
        return
    start = None if order.model is None else Path(order.model)
    parts = config["dataset"], config["model"], config["train"], start, order.epoch
    train(settings, sources, data.outputs, *parts)


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
        trained = "original" if stage == "kept_epoch" else stage
        return Watch(
            f"The {trained}'s training",
            f"Lower train.learning_rate (it is {config['train']['learning_rate']:g}).{more}",
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
