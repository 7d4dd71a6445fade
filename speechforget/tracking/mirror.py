"""A process beside a run that shows its curves elsewhere: W&B and TensorBoard, neither of which then can stop the run, or make it wait.

    python -m speechforget.tracking.mirror        (started by `tracking.py`, never by hand)

It reads messages, a line of JSON each, until its input ends, and writes sentences for the user, a line each. Runs come one after another: `start`,
then any number of `point` and `comparison`, then `finish`. When the process that started it is gone, it ends within half a minute, whatever it
waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from speechforget.tracking.wandb_settings import NAME, TAG, api_key, base_url, shortened

SECONDS_TO_ANSWER = 2.5  # for W&B's server, to a question as small as can be
SECONDS_TO_START = 10.0  # for a run of W&B
SECONDS_TO_END = 30.0  # when the input has ended
NOTHING_LOST = "Nothing else is lost: learning curves are in each folder's curves.csv."
Message = Mapping[str, Any]


class Shown(Protocol):
    """One run, as some tracker shows it."""

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """Row `number` of the learning curve."""

    def comparison(self, told: Message) -> None:
        """See `tracking.log_comparison`."""

    def finish(self, failed: bool) -> None:
        """The last that is heard of it."""


class Wandb:
    """A run of W&B. It is told everything from the first row on; what the server already has of it is left out."""

    def __init__(self, told: Message, offline: bool) -> None:
        import wandb

        folder, name = Path(told["folder"]), told["key"][:32]
        for earlier in (folder / "wandb").glob(f"offline-run-*-{name}"):  # of an attempt that was interrupted
            shutil.rmtree(earlier, ignore_errors=True)
        self.run = wandb.init(
            project=told["project"],
            entity=told["entity"],
            name=shortened(told["name"]),
            id=name,
            resume="allow",
            group=shortened(told["group"], NAME),
            job_type=told["stage"],
            tags=[shortened(tag, TAG) for tag in told["tags"]],
            config=told["config"],
            dir=folder,
            mode="offline" if offline else "online",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=SECONDS_TO_START, x_stats_pid=os.getppid()
            ),
        )
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """See `Shown`."""
        if number >= self.run.starting_step:
            self.run.log(
                {"trainer/global_step" if name == "step" else name: value for name, value in row.items()},
                step=number,
                commit=True,
            )

    def comparison(self, told: Message) -> None:
        """A table, figures and an image; notes stand on the run's page above everything else."""
        import wandb

        table, image = wandb.Table(columns=told["columns"], data=told["rows"]), wandb.Image(told["plot"])
        self.run.log({**told["scalars"], "comparison": table, "comparison plot": [image]})
        if told["notes"]:
            self.run.summary["notes"] = self.run.notes = "\n".join(told["notes"])

    def finish(self, failed: bool) -> None:
        """See `Shown`."""
        self.run.finish(exit_code=int(failed))


class TensorBoard:
    """An event file."""

    def __init__(self, told: Message) -> None:
        from tensorboardX import SummaryWriter

        place = Path(told["folder"]) / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)  # of an attempt that was interrupted: every row is told again
        self.writer = SummaryWriter(str(place))

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """See `Shown`."""
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def comparison(self, told: Message) -> None:
        """Figures, an image, notes as text."""
        from matplotlib.image import imread

        for name, value in told["scalars"].items():
            self.writer.add_scalar(name, value, 0)
        self.writer.add_image("comparison plot", imread(told["plot"])[..., :3], dataformats="HWC")
        if told["notes"]:
            self.writer.add_text("notes", "\n\n".join(told["notes"]))

    def finish(self, failed: bool) -> None:
        """See `Shown`."""
        self.writer.close()


class Screen:
    """Where runs are shown. say: takes a sentence for the user."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.shown: Shown | None = None
        self.refused: bool | None = None  # whether W&B's server is of no use; None before it was asked
        self.complained = False

    def hear(self, message: Message) -> None:
        """Does what a message says; after a failure nothing more is shown of the run."""
        try:
            self._do(message)
        except Exception as error:
            self.shown = None
            if not self.complained:
                self.say(f"The tracker failed ({type(error).__name__}: {_words(error)}). {NOTHING_LOST}")
            self.complained = True

    def _do(self, message: Message) -> None:
        match message["do"]:
            case "start":
                self.shown = TensorBoard(message) if message["tracker"] == "tensorboard" else self._wandb(message)
            case "point" if self.shown:
                self.shown.point(message["number"], message["row"])
            case "comparison" if self.shown:
                self.shown.comparison(message)
            case "finish" if self.shown:
                shown, self.shown = self.shown, None
                shown.finish(message["failed"])

    def _wandb(self, message: Message) -> Wandb:
        offline = message["mode"] == "offline"
        if not offline and self.refused is None:
            why = refusal(base_url(), api_key())
            self.refused = False
            if why:
                self._give_up(why, message)
        if offline or self.refused:
            return Wandb(message, offline=True)
        try:
            return Wandb(message, offline=False)
        except Exception as error:
            self._give_up(_words(error), message)
            return Wandb(message, offline=True)

    def _give_up(self, why: str, message: Message) -> None:
        self.refused = True
        place = Path(message["folder"]).parent.parent
        self.say(f"W&B: {why}. Runs are kept offline; to upload them: `wandb sync {place}/*/*/wandb/offline-run-*`.")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def refusal(server: str, key: str | None) -> str | None:
    """Why W&B's server is of no use now, as the beginning of a sentence; None where it answers."""
    found: list[str | None] = []
    asking = threading.Thread(
        target=lambda: found.append(_ask(server, key)), daemon=True
    )  # looking a name up knows no time limit
    asking.start()
    asking.join(SECONDS_TO_ANSWER + 0.5)
    return found[0] if found else f"{server} does not answer"


def _ask(server: str, key: str | None) -> str | None:
    import requests

    login = None if key is None else ("api", key)
    try:
        answer = requests.post(
            f"{server}/graphql", json={"query": "query { viewer { id } }"}, auth=login, timeout=SECONDS_TO_ANSWER
        )
        if answer.status_code in (401, 403) or (answer.ok and login and not answer.json()["data"]["viewer"]):
            return f"{server} refuses the key that is configured (`wandb login` sets another one)"
        return None if answer.ok else f"{server} answers with the error {answer.status_code}"
    except requests.Timeout:
        return f"{server} does not answer"
    except (OSError, ValueError, KeyError, TypeError) as error:  # requests' own errors are kinds of OSError
        return f"{server} cannot be reached ({type(error).__name__})"


def main() -> None:
    """Shows what comes, until nothing comes any more."""
    os.environ["WANDB_SILENT"] = "true"  # read when wandb is loaded
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is nobody's

    def say(sentence: str) -> None:
        with contextlib.suppress(OSError):
            print(sentence, file=out)

    inbox: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=read, args=(inbox,), daemon=True).start()
    screen = Screen(say)
    while (message := inbox.get()) is not None:
        screen.hear(message)
    screen.hear({"do": "finish", "failed": True})  # a run that nobody finished
    end()


def read(inbox: queue.Queue[Message | None]) -> None:
    """Fills the inbox; when the input has ended, the process has some seconds left."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError):  # a line that was cut off
            inbox.put(json.loads(line))
    inbox.put(None)
    timer = threading.Timer(SECONDS_TO_END, end)
    timer.daemon = True
    timer.start()


def end() -> None:
    """Ends this process and those that W&B started, which are a group of their own."""
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(0)


if __name__ == "__main__":
    main()
