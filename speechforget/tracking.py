"""Where learning curves and comparisons are shown: W&B, TensorBoard, CSV or nowhere. One run per artefact, always finished.

Files in the artefact's folder stay the source; a tracker is a mirror, and losing it loses nothing. Each conf/logger/*.yaml names one of the
functions below; all take the same arguments: the artefact's folder and key, the run's name, its group (the experiment), its stage, tags and config.
"""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechforget.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

logger = logging.getLogger(__name__)

_said: set[str] = set()


@dataclass(frozen=True)
class Run:
    """What a tracker is told about an artefact."""

    folder: Path
    key: str
    name: str
    group: str
    stage: str
    tags: Sequence[str]
    config: Mapping[str, Any]


@contextmanager
def track(options: Mapping[str, Any], run: Run) -> Iterator[Logger | None]:
    """The tracker of one artefact, finished on the way out whatever happens."""
    from hydra.utils import get_method

    arguments = {name: value for name, value in options.items() if name != "_target_"}
    tracker = get_method(options["_target_"])(run=run, **arguments)
    status = "failed"
    try:
        yield tracker
        status = "success"
    finally:
        _finish(tracker, status)


def track_artefact(config: Mapping[str, Any], stage: str, folder: Path, key: str, name: str) -> AbstractContextManager[Logger | None]:
    """The tracker that a run's config asks for: grouped by experiment, which is corpus, label and model; tagged with what the artefact is of."""
    words = words_of(config)
    foreign = {"original": {"task", "method", "metrics"}, "oracle": {"method", "metrics"}}.get(stage, set())
    tags = [stage, *words, f"seed{config['seed']}"]
    tags += [] if "task" in foreign else [config["task"]["kind"]]
    tags += [] if "method" in foreign else [config["method"]["name"]]
    told = {group: value for group, value in config.items() if group not in foreign}
    return track(config["logger"], Run(folder, key, name, "-".join(words), stage, tags, told))


def words_of(config: Mapping[str, Any]) -> list[str]:
    """The words that name an experiment: corpus, label, model."""
    return [config["dataset"]["name"], config["dataset"]["label"], config["model"]["name"]]


def _finish(tracker: Logger | None, status: str) -> None:
    if tracker is None:
        return  # imports nothing: after Ctrl-C in the middle of loading torch, loading it again crashes
    from lightning.pytorch.loggers import WandbLogger

    tracker.finalize(status)
    if isinstance(tracker, WandbLogger):
        import wandb

        wandb.finish(exit_code=0 if status == "success" else 1)


def no_logger(run: Run) -> None:
    """Nowhere."""


def csv_logger(run: Run) -> CSVLogger:
    """`metrics.csv` in the artefact's folder."""
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(save_dir=run.folder, name="csv", version="")


def tensorboard_logger(run: Run) -> TensorBoardLogger:
    """An event file in the artefact's folder: `tensorboard --logdir outputs`."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=run.folder, name="tensorboard", version="")


def wandb_logger(run: Run, project: str, entity: str | None, mode: str) -> WandbLogger | None:
    """A W&B run: its id is the artefact's key.

    mode: online, offline, or auto: online where a key is configured, else offline with one line that says so. Never asks.
    The environment variable WANDB_MODE (offline, disabled) goes before it.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is loaded
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    offline = _offline(mode, run.folder)
    experiment = wandb.init(
        project=project,
        entity=entity,
        name=run.name,
        id=run.key[:32],
        resume="allow",
        group=run.group,
        job_type=run.stage,
        tags=list(run.tags),
        config=dict(run.config),
        dir=run.folder,
        mode="offline" if offline else "online",
        settings=wandb.Settings(silent=True, console="off", init_timeout=60),
    )
    experiment.define_metric("trainer/global_step")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=experiment)


def _offline(mode: str, folder: Path) -> bool:
    if mode not in {"auto", "online", "offline"}:
        raise UserError(f"Unknown logger.mode '{mode}': there are auto, online and offline.")
    if os.environ.get("WANDB_MODE") in {"offline", "dryrun"} or mode == "offline":
        return True
    if has_wandb_key():
        return False
    if mode == "online":
        raise UserError("logger.mode=online, but no W&B key is configured: run `wandb login`, or set WANDB_API_KEY.")
    _say_once(
        "W&B: no key is configured, so runs are kept offline. To upload them: `wandb login`, then "
        f"`wandb sync {folder.parent.parent}/*/*/wandb/offline-run-*`."
    )
    return True


def has_wandb_key() -> bool:
    """Whether W&B could log in without asking: an environment variable or an entry in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _say_once(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        logger.info(sentence)


def log_comparison(
    tracker: Logger | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    scalars: Mapping[str, float],
    plot: Path,
    notes: Sequence[str] = (),
) -> None:
    """The comparison as a table (W&B), its figures as scalars, and the plot as an image and notes as text (W&B and TensorBoard)."""
    if tracker is None:
        return
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    tracker.log_metrics(dict(scalars))
    if isinstance(tracker, WandbLogger):
        tracker.log_table("comparison", columns=list(columns), data=[list(row) for row in rows])
        tracker.log_image("comparison plot", [str(plot)])
        if notes:
            tracker.experiment.summary["notes"] = "\n".join(notes)
            tracker.experiment.notes = "\n".join(notes)  # shown on the run's page, above everything else
    elif isinstance(tracker, TensorBoardLogger):
        from matplotlib.image import imread

        tracker.experiment.add_image("comparison plot", imread(plot)[..., :3], dataformats="HWC")
        if notes:
            tracker.experiment.add_text("notes", "\n\n".join(notes))
