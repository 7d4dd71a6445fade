"""Trackers that show learning curves and comparisons: W&B, TensorBoard, CSV or none.

Each artefact is one run, and each run is finished. The source of the numbers is the files in the artefact's folder
(`curves.py`); a tracker is a mirror of them. If it fails, one line says so. A tracker can neither stop a run nor
delay it: W&B and TensorBoard run in another process (`mirror.py`).

Each conf/logger/*.yaml names one of the functions below, or a function of the user's. The function takes the artefact
(`Run`) and the yaml's other keys, and returns a `Tracker` or None.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store import write_text
from speechforget.tracking import lineage
from speechforget.tracking.curves import Row, table
from speechforget.tracking.hiding import HASHED, OPEN, hidden
from speechforget.tracking.mirror_process import open_mirror, say_once
from speechforget.tracking.tracker import Comparison, Guarded, Run, Tracker
from speechforget.tracking.wandb_settings import can_log_in, project_name, told_mode


@contextmanager
def track(options: Mapping[str, Any], run: Run) -> Iterator[Guarded | None]:
    """Open the tracker of one artefact, and finish it whatever happens. Raises UserError for invalid options."""
    from hydra.utils import get_method

    arguments = {name: value for name, value in options.items() if name != "_target_"}
    tracker = get_method(options["_target_"])(run=run, **arguments)
    kept = None if tracker is None else Guarded(tracker)
    failed = True
    try:
        yield kept
        failed = False
    finally:
        if kept is not None:
            kept.tell("finish", lambda: (failed,))


def track_artefact(
    config: Mapping[str, Any], stage: str, folder: Path, key: str, name: str
) -> AbstractContextManager[Guarded | None]:
    """Open the tracker that a config asks for.

    The group is the experiment: corpus, label and model. Tags name the stage, the group and the seed; the request and
    the method too, if the artefact depends on them.
    """
    words = words_of(config)
    others = {"task", "method", "evaluation"}
    foreign = {"kept_epoch": others, "original": others, "oracle": others - {"task"}}.get(stage, set())
    tags = [stage, *words, f"seed{config['seed']}"]
    tags += [] if "task" in foreign else [config["task"]["kind"]]
    tags += [] if "method" in foreign else [config["method"]["name"]]
    told = {group: value for group, value in config.items() if group not in foreign}
    return track(config["logger"], Run(folder, key, name, "-".join(words), stage, tags, told))


def words_of(config: Mapping[str, Any]) -> list[str]:
    """List the words that name an experiment: corpus, label, model."""
    return [config["dataset"]["name"], config["dataset"]["label"], config["model"]["name"]]


def no_logger(run: Run) -> None:
    """Show the run nowhere."""


class Csv:
    """Copy the learning curve, or the scalars of a result, to a CSV file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "csv" / "metrics.csv"
        self.rows: list[Row] = []

    def point(self, number: int, row: Row) -> None:
        """See `Tracker`."""
        self.rows[number:] = [row]
        self.path.parent.mkdir(exist_ok=True)
        write_text(self.path, table(self.rows))

    def compare(self, comparison: Comparison) -> None:
        """See `Tracker`."""
        self.point(0, comparison.scalars)

    def finish(self, failed: bool) -> None:
        """Do nothing: no file is open."""


def csv_logger(run: Run) -> Tracker:
    """Write `csv/metrics.csv` in the artefact's folder."""
    return Csv(run.folder)


def tensorboard_logger(run: Run) -> Tracker:
    """Write an event file in the artefact's folder; show it with `tensorboard --logdir outputs`."""
    return Mirrored(run, {"tracker": "tensorboard"})


def wandb_logger(
    run: Run,
    project: str,
    entity: str | None,
    mode: str,
    names: str = HASHED,
    audio: bool = False,
    artifacts: str = lineage.REFERENCES,
) -> Tracker | None:
    """Show the run in W&B; the id of the run is the artefact's key.

    mode: online, offline or auto. auto follows W&B's own settings; without them it is online if a key is configured,
    else offline, which one line says. The variables WANDB_MODE and WANDB_DISABLED take precedence. W&B never prompts
    for a key. If its server refuses or does not answer, runs are kept offline.

    names: hashed or open, how people, recordings and paths are named. audio: whether a result shows recordings; read by
    `stages.tracked`. artifacts: none, references or files, see `lineage`.
    """
    chosen = _mode(mode, run.folder)
    if chosen == "disabled":
        return None
    name = project_name(project)
    if name != project:
        say_once(f"W&B does not accept the project name '{project}', so '{name}' is used (logger.entity names a team).")
    options = {"tracker": "wandb", "project": name, "entity": entity, "mode": chosen, "names": names}
    shown = run if names == OPEN else hidden(run)
    if artifacts == "none":
        return Mirrored(shown, options)
    return Mirrored(shown, options, lambda: lineage.artifacts(run, artifacts, names == OPEN))


def _mode(mode: str, folder: Path) -> str:
    told = told_mode()
    if told in {"offline", "disabled"} and (
        mode == "auto" or "WANDB_MODE" in os.environ or "WANDB_DISABLED" in os.environ
    ):
        return told
    if mode == "offline" or can_log_in():
        return mode.replace("auto", "online")
    if mode == "online":
        raise UserError("logger.mode=online, but no W&B key is configured: run `wandb login`, or set WANDB_API_KEY.")
    say_once(
        "W&B: no key is configured, so runs are kept offline. To upload them: `wandb login`, then "
        f"`wandb sync {folder.parent.parent}/*/*/wandb/offline-run-*`."
    )
    return "offline"


class Mirrored:
    """Show a run by the mirror process. made: lists the artifacts of a run that did not fail."""

    def __init__(
        self, run: Run, options: Mapping[str, Any], made: Callable[[], list[dict[str, Any]]] | None = None
    ) -> None:
        self.mirror, self.made = open_mirror(), made
        self.mirror.online = options.get("mode") == "online"
        self.mirror.send({"do": "start", **options, **asdict(run)})

    def point(self, number: int, row: Row) -> None:
        """See `Tracker`."""
        self.mirror.send({"do": "point", "number": number, "row": dict(row)})

    def compare(self, comparison: Comparison) -> None:
        """See `Tracker`."""
        self.mirror.send({"do": "comparison", **asdict(comparison)})

    def finish(self, failed: bool) -> None:
        """See `Tracker`."""
        try:
            if self.made is not None and not failed:
                self.mirror.send({"do": "artifacts", "artifacts": self.made()})
        finally:
            self.mirror.send({"do": "finish", "failed": failed})
