"""Test whether flock excludes processes of two machines in a folder (`speechforget store locks FOLDER`).

Processes that run this at the same time find each other through files in FOLDER. The first to get the flock holds it
and reports so; the others try to get it. If another one gets it too, flock does not reach across machines there, and
`lock=lease` is needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechforget.store.files import explained, make_folder, write_json
from speechforget.store.holders import try_flock

TRIAL_FOLDER = ".lock-trial"
TURN_S = 0.1
LINGER_S = 10.0
# Failed tries after which a process counts as excluded.
TRIES = 8
TEST_TWO_NODES = "srun -N2 --ntasks-per-node=1 python -m speechforget.store locks"


@dataclass
class Trial:
    """Hold the part of one process in the trial.

    tries: failed tries while another process held the flock. both: whether two held it at the same time.
    no_flock: whether the file system has no flock. beside: names of those that held it together with this process.
    seen: the last report of every other process. others: the reports of those that still take turns.
    """

    folder: Path
    host: str = field(default_factory=socket.gethostname)
    name: str = field(default_factory=lambda: secrets.token_hex(6))
    turns: int = 0
    tries: int = 0
    holds: bool = False
    both: bool = False
    no_flock: bool = False
    beside: list[str] = field(default_factory=list)
    ended: bool = False
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    def report(self) -> None:
        """Report this process and read the reports of the others."""
        self.turns += 1
        names = ("host", "turns", "tries", "holds", "both", "no_flock", "beside", "ended")
        mine = {name: getattr(self, name) for name in names}
        write_json(self.folder / f"{self.name}.json", mine)
        for path in self.folder.glob("[0-9a-f]*.json"):
            if path.stem == self.name:
                continue
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # its process has left
                continue
            # A file left by an earlier trial does not count its turns.
            if path.stem in self.seen and found["turns"] != self.seen[path.stem]["turns"]:
                self.others[path.stem] = found
            self.seen[path.stem] = found

    def is_there(self, name: str) -> bool:
        """Return whether another process is still in the trial."""
        return (self.folder / f"{name}.json").exists()

    def turn(self, descriptor: int) -> None:
        """Try the flock, or keep holding it, and check whether another process holds it too."""
        self.report()
        if not self.holds and not self.no_flock:
            try:
                self.holds = try_flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                self.no_flock = True
            held_elsewhere = any(other["holds"] for other in self.others.values())
            self.tries += held_elsewhere and not self.holds
        self.beside = [name for name, other in self.others.items() if self.holds and other["holds"]]
        # A report may be old, so it counts only if the other also saw this process hold the flock.
        self.both = self.both or any(self.name in self.others[name]["beside"] for name in self.beside)
        self.ended = self._knows_enough()

    def _knows_enough(self) -> bool:
        """Return whether the trial is decided: two held the flock, or all but its holder tried it without success."""
        if self.both or self.no_flock or any(other["both"] or other["no_flock"] for other in self.others.values()):
            return True
        tried = [
            *(other["tries"] for other in self.others.values() if not other["holds"]),
            *([] if self.holds else [self.tries]),
        ]
        return bool(self.others) and bool(tried) and min(tried) >= TRIES


def try_locks(folder: Path, seconds: float, partner: bool = False) -> int:
    """Run the trial for at most `seconds` and print one line; return 0 if that is a verdict.

    partner: be the second process on this machine, which prints nothing.
    """
    meeting = folder / TRIAL_FOLDER
    make_folder(meeting)
    with explained(meeting):
        trial = Trial(meeting)
        with _file(meeting / "flock") as descriptor, _leaving(trial):
            if not partner:
                _meet(trial, seconds / 2)
            second = None if trial.others or partner else _second(folder, seconds)
            deadline = time.monotonic() + seconds
            while not trial.ended and time.monotonic() < deadline:
                trial.turn(descriptor)
                time.sleep(TURN_S)
            _linger(trial)
            if second is not None:
                second.wait()
    code, line = verdict(trial, folder)
    if not partner:
        print(line, flush=True)
    return code


def _meet(trial: Trial, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not trial.others and time.monotonic() < deadline:
        trial.report()
        time.sleep(TURN_S)


def _linger(trial: Trial) -> None:
    """Stay until the others have seen the end."""
    deadline = time.monotonic() + LINGER_S
    trial.report()
    while time.monotonic() < deadline and not all(
        other["ended"] for name, other in trial.others.items() if trial.is_there(name)
    ):
        time.sleep(TURN_S)
        trial.report()


def _second(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "speechforget.store", "locks", str(folder), "--seconds", str(seconds), "--partner"]
    return subprocess.Popen(line)


@contextmanager
def _file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _leaving(trial: Trial) -> Iterator[None]:
    """Remove the report of this process; the last process also removes the folder."""
    try:
        yield
    finally:
        (trial.folder / f"{trial.name}.json").unlink(missing_ok=True)
        left = [
            name for name, found in trial.others.items() if trial.is_there(name) and not _is_old(trial, name, found)
        ]
        if not left:
            for path in trial.folder.glob("*"):
                path.unlink(missing_ok=True)
            _remove_if_empty(trial.folder)


def _is_old(trial: Trial, name: str, found: dict[str, Any]) -> bool:
    """Return whether a process no longer takes turns."""
    time.sleep(5 * TURN_S)
    try:
        return bool(json.loads((trial.folder / f"{name}.json").read_text(encoding="utf-8"))["turns"] == found["turns"])
    except (OSError, ValueError):
        return True


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # another process has joined
        return


def verdict(trial: Trial, folder: Path) -> tuple[int, str]:
    """Return the exit code and the sentence to print."""
    hosts = sorted({trial.host, *(other["host"] for other in trial.others.values())})
    between = " and ".join(hosts)
    everybody = [*trial.others.values(), {"both": trial.both, "no_flock": trial.no_flock}]
    if any(each["no_flock"] for each in everybody):
        return 0, f"The file system of {folder} has no flock: use lock=lease."
    if any(each["both"] for each in everybody):
        return 0, f"flock does not exclude processes on {between} from each other in {folder}: use lock=lease."
    if not trial.ended:
        return 1, (
            "No verdict, because the other processes did not answer in time: "
            f"repeat with a larger --seconds, all at the same time: {TEST_TWO_NODES} {folder}"
        )
    if len(hosts) > 1:
        return 0, f"flock excludes processes on {between} from each other in {folder}: keep lock=flock, the default."
    return 0, (
        f"flock works on {between}. Only this machine was tested; to test two nodes, run: {TEST_TWO_NODES} {folder}"
    )
