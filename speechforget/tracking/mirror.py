"""The process that shows runs in W&B and TensorBoard, so that neither can stop or delay the run itself.

    python -m speechforget.tracking.mirror        (started by `mirror_process.py`, never by hand)

It reads messages, one line of JSON each, until its input ends. It writes sentences for the user, one per line.
Messages of a run are `start`, then any number of `point`, `comparison` and `artifacts`, then `finish`; runs follow each
other.
When the process that started it has ended, the mirror ends within half a minute, whatever it waits for.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from speechforget.tracking.wandb_run import Wandb
from speechforget.tracking.wandb_settings import api_key, base_url

SECONDS_TO_ANSWER = 2.5  # for W&B's server to answer the smallest query
SECONDS_TO_END = 30.0  # for this process, after its input has ended
NOTHING_LOST = "No data is lost: learning curves are in each folder's curves.csv."
Message = Mapping[str, Any]


class Shown(Protocol):
    """Show one run in a tracker."""

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """Show row `number` of the learning curve."""

    def comparison(self, told: Message) -> None:
        """Show a comparison; see `tracker.Comparison`."""

    def artifacts(self, listed: Sequence[Message]) -> None:
        """Show what the run made and used; see `lineage.artifacts`."""

    def finish(self, failed: bool) -> None:
        """End the run; this is the last call."""


class TensorBoard:
    """Show a run in a TensorBoard event file."""

    def __init__(self, told: Message) -> None:
        from tensorboardX import SummaryWriter

        folder = Path(told["folder"]) / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt: every row is sent again
        self.writer = SummaryWriter(str(folder))

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """See `Shown`."""
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def comparison(self, told: Message) -> None:
        """Log scalars, an image, and notes as text."""
        from matplotlib.image import imread

        for name, value in told["scalars"].items():
            self.writer.add_scalar(name, value, 0)
        if told["plot"]:
            self.writer.add_image("comparison plot", imread(told["plot"])[..., :3], dataformats="HWC")
        if told["notes"]:
            self.writer.add_text("notes", "\n\n".join(told["notes"]))

    def artifacts(self, listed: Sequence[Message]) -> None:
        """Do nothing: TensorBoard has no artifacts."""

    def finish(self, failed: bool) -> None:
        """See `Shown`."""
        self.writer.close()


class Screen:
    """Carry out messages. say: a function that takes a sentence for the user."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.shown: Shown | None = None
        self.refused: bool | None = None  # whether W&B's server is unusable; None before the first query
        self.complained = False

    def receive(self, message: Message) -> None:
        """Carry out a message; after a failure ignore the rest of the run, unless only its artifacts failed."""
        try:
            self._do(message)
        except Exception as error:
            self.shown = self.shown if message["do"] == "artifacts" else None
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
            case "artifacts" if self.shown:
                self.shown.artifacts(message["artifacts"])
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
        output = Path(message["folder"]).parent.parent
        self.say(f"W&B: {why}. Runs are kept offline; to upload them: `wandb sync {output}/*/*/wandb/offline-run-*`.")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def refusal(server: str, key: str | None) -> str | None:
    """Say why W&B's server is unusable now, as the start of a sentence; None if it answers."""
    found: list[str | None] = []
    # A thread, because a DNS query has no time limit.
    asking = threading.Thread(target=lambda: found.append(_ask(server, key)), daemon=True)
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
    except (OSError, ValueError, KeyError, TypeError) as error:  # errors of requests are subclasses of OSError
        return f"{server} cannot be reached ({type(error).__name__})"


def main() -> None:
    """Carry out messages until the input ends."""
    os.environ["WANDB_SILENT"] = "true"  # read when wandb is loaded
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # drop what libraries print

    def say(sentence: str) -> None:
        with contextlib.suppress(OSError):
            print(sentence, file=out)

    inbox: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=read, args=(inbox,), daemon=True).start()
    screen = Screen(say)
    while (message := inbox.get()) is not None:
        screen.receive(message)
    screen.receive({"do": "finish", "failed": True})  # in case a run is not finished
    end()


def read(inbox: queue.Queue[Message | None]) -> None:
    """Fill the inbox; after the input has ended, end this process within `SECONDS_TO_END`."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError):  # an incomplete line
            inbox.put(json.loads(line))
    inbox.put(None)
    timer = threading.Timer(SECONDS_TO_END, end)
    timer.daemon = True
    timer.start()


def end() -> None:
    """End this process and those that W&B started, which share its process group."""
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(0)


if __name__ == "__main__":
    main()
