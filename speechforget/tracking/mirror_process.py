"""The handle of the process that shows runs in W&B and TensorBoard (`mirror.py`): start it, write to it, end it."""

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
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

# Waiting time at the end of a command: for a server, which takes the tables of a result one by one, and for files,
# which take a moment even on free cores.
SECONDS_TO_WAIT, SECONDS_TO_WRITE = 15.0, 30.0

MIRROR = [sys.executable, "-m", "speechforget.tracking.mirror"]

_said: set[str] = set()


class Mirror:
    """Run the mirror process, with threads that write to it and log its sentences. Only `close` waits for it."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            MIRROR,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not reach it
        )
        self.online = False  # whether the last run goes to a server
        self.outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._listen)]
        for thread in self.threads:
            thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message; return at once."""
        self.outbox.put(json.dumps(message, default=_plain) + "\n")

    def _write(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended; `close` finds that
            while (line := self.outbox.get()) is not None:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            self.process.stdin.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            say_once(line.decode(errors="replace").strip())

    def close(self) -> None:
        """Give the process some seconds to show the rest, then end it."""
        self.outbox.put(None)
        try:
            self.process.wait(SECONDS_TO_WAIT if self.online else SECONDS_TO_WRITE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            say_once(
                "The tracker did not accept everything before the run ended; to upload the rest: "
                "`wandb sync --include-online` on an artefact's wandb/*run-*."
            )
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.threads[1].join(1.0)


def _plain(thing: Any) -> Any:
    """Convert for JSON: NumPy numbers to Python numbers, anything else to text."""
    return thing.item() if hasattr(thing, "item") else str(thing)


_mirror: Mirror | None = None


def open_mirror() -> Mirror:
    """Return the mirror of this process; start it on the first call."""
    global _mirror  # noqa: PLW0603
    if _mirror is None:
        _mirror = Mirror()
        if multiprocessing.parent_process() is None:
            atexit.register(close_mirror)
        else:
            # A job of joblib does not run `atexit`.
            multiprocessing.util.Finalize(None, close_mirror, exitpriority=1)
    return _mirror


def close_mirror() -> None:
    """End the mirror of this process, if there is one."""
    global _mirror  # noqa: PLW0603
    if _mirror is not None:
        _mirror.close()
    _mirror = None


def say_once(sentence: str) -> None:
    """Log a sentence, unless this process already logged it."""
    if sentence not in _said:
        _said.add(sentence)
        logger.info(sentence)
