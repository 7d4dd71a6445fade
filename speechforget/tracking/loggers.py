"""Where learning curves and comparisons are shown: W&B, TensorBoard, CSV or nowhere. One run per artefact, always finished.

Files in the artefact's folder stay the source (`curves.py`); a tracker is a mirror that is told all of it. It can fail, which one line says.
It can neither stop a run nor make it wait: W&B and TensorBoard live in a process of their own (`mirror.py`).

Each conf/logger/*.yaml names one of the functions below, or one of yours. All take the artefact (`Run`) and the yaml's other keys, and give
a `Tracker`, or None.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import multiprocessing
import multiprocessing.util
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from speechforget.errors import UserError
from speechforget.store import write_text
from speechforget.tracking.curves import Row, table
from speechforget.tracking.mirror import NOTHING_LOST
from speechforget.tracking.wandb_settings import can_log_in, project_name, told_mode

logger = logging.getLogger(__name__)

SECONDS_TO_WAIT = 4.0  # at the end of a command, for what a server has not taken yet
SECONDS_TO_WRITE = 30.0  # the same for files, which take a moment where cores are free

MIRROR = [sys.executable, "-m", "speechforget.tracking.mirror"]

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


@dataclass(frozen=True)
class Comparison:
    """What a result shows. columns, rows: of its table; scalars: its figures by name; plot: an image file; notes: sentences."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    scalars: Mapping[str, float]
    plot: Path
    notes: Sequence[str] = ()


class Tracker(Protocol):
    """One artefact's run, shown somewhere."""

    def point(self, number: int, row: Row) -> None:
        """Row `number` of the learning curve, from 0: name -> number, `epoch` and `step` among them. A resumed run tells all rows anew."""

    def compare(self, comparison: Comparison) -> None:
        """A result's figures."""

    def finish(self, failed: bool) -> None:
        """The last call."""


class Kept:
    """A tracker whose failure is one line, after which it is told nothing more."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker | None = tracker

    def tell(self, call: str, *arguments: Any) -> None:
        """Calls a function of the tracker."""
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, call)(*arguments)
        except Exception as error:
            self.tracker = None
            _say_once(f"The tracker failed ({type(error).__name__}: {error}). {NOTHING_LOST}")

    def point(self, number: int, row: Row) -> None:
        """See `Tracker`."""
        self.tell("point", number, row)


@contextmanager
def track(options: Mapping[str, Any], run: Run) -> Iterator[Kept | None]:
    """The tracker of one artefact, finished on the way out whatever happens. Raises UserError for options that mean nothing."""
    from hydra.utils import get_method

    arguments = {name: value for name, value in options.items() if name != "_target_"}
    tracker = get_method(options["_target_"])(run=run, **arguments)
    kept = None if tracker is None else Kept(tracker)
    failed = True
    try:
        yield kept
        failed = False
    finally:
        if kept is not None:
            kept.tell("finish", failed)


def track_artefact(
    config: Mapping[str, Any], stage: str, folder: Path, key: str, name: str
) -> AbstractContextManager[Kept | None]:
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


def log_comparison(
    tracker: Kept | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    scalars: Mapping[str, float],
    plot: Path,
    notes: Sequence[str] = (),
) -> None:
    """See `Comparison`."""
    if tracker is not None:
        tracker.tell("compare", Comparison(columns, rows, scalars, plot, notes))


def no_logger(run: Run) -> None:
    """Nowhere."""


class Csv:
    """A copy of the learning curve; of a result, its figures."""

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
        """Nothing is open."""


def csv_logger(run: Run) -> Tracker:
    """`csv/metrics.csv` in the artefact's folder."""
    return Csv(run.folder)


def tensorboard_logger(run: Run) -> Tracker:
    """An event file in the artefact's folder: `tensorboard --logdir outputs`."""
    return Mirrored(run, {"tracker": "tensorboard"})


def wandb_logger(run: Run, project: str, entity: str | None, mode: str) -> Tracker | None:
    """A W&B run: its id is the artefact's key.

    mode: online, offline, or auto: as W&B's own settings say, else online where a key is configured, else offline with one line that says so. Never
    asks. W&B's variables (WANDB_MODE, WANDB_DISABLED) go before it. Where its server refuses or does not answer, runs are kept offline.
    """
    chosen = _mode(mode, run.folder)
    if chosen == "disabled":
        return None
    name = project_name(project)
    if name != project:
        _say_once(
            f"W&B takes no project of the name '{project}': the project is '{name}' (logger.entity names a team)."
        )
    return Mirrored(run, {"tracker": "wandb", "project": name, "entity": entity, "mode": chosen})


def _mode(mode: str, folder: Path) -> str:
    if mode not in {"auto", "online", "offline"}:
        raise UserError(f"Unknown logger.mode '{mode}': there are auto, online and offline.")
    told = told_mode()
    if told in {"offline", "disabled"} and (
        mode == "auto" or "WANDB_MODE" in os.environ or "WANDB_DISABLED" in os.environ
    ):
        return told
    if mode == "offline" or can_log_in():
        return mode.replace("auto", "online")
    if mode == "online":
        raise UserError("logger.mode=online, but no W&B key is configured: run `wandb login`, or set WANDB_API_KEY.")
    _say_once(
        "W&B: no key is configured, so runs are kept offline. To upload them: `wandb login`, then "
        f"`wandb sync {folder.parent.parent}/*/*/wandb/offline-run-*`."
    )
    return "offline"


class Mirrored:
    """A run that the process beside this one shows."""

    def __init__(self, run: Run, options: Mapping[str, Any]) -> None:
        self.mirror = _open_mirror()
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
        self.mirror.send({"do": "finish", "failed": failed})


class Mirror:
    """The process that `mirror.py` is, and the threads that write to it and repeat what it says: nobody waits for it before the end."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            MIRROR,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        self.online = False  # whether the last run is for a server
        self.outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._listen)]
        for thread in self.threads:
            thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Hands a message over, now or later."""
        self.outbox.put(json.dumps(message, default=_plain) + "\n")

    def _write(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which `close` finds
            while (line := self.outbox.get()) is not None:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            self.process.stdin.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            _say_once(line.decode(errors="replace").strip())

    def close(self) -> None:
        """Gives it some seconds to show the rest, and ends it."""
        self.outbox.put(None)
        try:
            self.process.wait(SECONDS_TO_WAIT if self.online else SECONDS_TO_WRITE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _say_once(
                "The tracker had not taken everything when the run ended; `wandb sync` on an artefact's wandb/*run-* uploads the rest."
            )
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.threads[1].join(1.0)


def _plain(thing: Any) -> Any:
    """For JSON: NumPy's numbers as Python's, anything else as words."""
    return thing.item() if hasattr(thing, "item") else str(thing)


_mirror: Mirror | None = None


def _open_mirror() -> Mirror:
    """This process's, started when it is first needed."""
    global _mirror  # noqa: PLW0603
    if _mirror is None:
        _mirror = Mirror()
        if multiprocessing.parent_process() is None:
            atexit.register(close_mirror)
        else:  # a job of joblib, which does not come to `atexit`
            multiprocessing.util.Finalize(None, close_mirror, exitpriority=1)
    return _mirror


def close_mirror() -> None:
    """Ends the process beside this one, if there is one."""
    global _mirror  # noqa: PLW0603
    if _mirror is not None:
        _mirror.close()
    _mirror = None


def _say_once(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        logger.info(sentence)
