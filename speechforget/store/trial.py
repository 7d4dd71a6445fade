"""`python -m speechforget.store locks FOLDER`: does flock keep processes of two machines apart in this folder?

The processes that run this at the same time meet in FOLDER by files. Whoever gets the flock holds it and says so; the others try it. If one of them
gets it, too, flock is the machine's own affair there, and `lock=lease` is needed.
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

PLACE = ".lock-trial"
TURN_S = 0.1
LINGER_S = 10.0
TRIES = 8  # in vain, before a process believes that it is kept out
HOW_TO_TEST_TWO = "srun -N2 --ntasks-per-node=1 python -m speechforget.store locks"


@dataclass
class Trial:
    """One process's part. `seen`: the others, as they last wrote of themselves; one that stopped writing is none."""

    folder: Path
    host: str = field(default_factory=socket.gethostname)
    name: str = field(default_factory=lambda: secrets.token_hex(6))
    turns: int = 0
    tries: int = 0
    holds: bool = False
    both: bool = False
    bare: bool = False  # no flock here at all
    beside: list[str] = field(default_factory=list)  # who held it while this one did, as far as it saw
    ended: bool = False
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tell(self) -> None:
        """Writes of itself, and reads the others."""
        self.turns += 1
        mine = {
            name: getattr(self, name) for name in ("host", "turns", "tries", "holds", "both", "bare", "beside", "ended")
        }
        write_json(self.folder / f"{self.name}.json", mine)
        for path in self.folder.glob("[0-9a-f]*.json"):
            if path.stem == self.name:
                continue
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # it left meanwhile
                continue
            # What an earlier trial left does not count turns.
            if path.stem in self.seen and found["turns"] != self.seen[path.stem]["turns"]:
                self.others[path.stem] = found
            self.seen[path.stem] = found

    def is_there(self, name: str) -> bool:
        """Whether another has not left."""
        return (self.folder / f"{name}.json").exists()

    def turn(self, descriptor: int) -> None:
        """Tries the flock, or goes on holding it; and looks whether somebody else holds it as well."""
        self.tell()
        if not self.holds and not self.bare:
            try:
                self.holds = try_flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                self.bare = True
            held_elsewhere = any(other["holds"] for other in self.others.values())
            self.tries += held_elsewhere and not self.holds
        self.beside = [name for name, other in self.others.items() if self.holds and other["holds"]]
        # What is read of another may be old, so it counts only when the other saw this one hold the lock beside it.
        self.both = self.both or any(self.name in self.others[name]["beside"] for name in self.beside)
        self.ended = self._knows_enough()

    def _knows_enough(self) -> bool:
        """Whether all know enough: the lock was seen held twice, or everybody but its holder tried it in vain."""
        if self.both or self.bare or any(other["both"] or other["bare"] for other in self.others.values()):
            return True
        tried = [
            *(other["tries"] for other in self.others.values() if not other["holds"]),
            *([] if self.holds else [self.tries]),
        ]
        return bool(self.others) and bool(tried) and min(tried) >= TRIES


def try_locks(folder: Path, seconds: float, partner: bool = False) -> int:
    """Runs the trial for at most `seconds`, prints one line, and gives 0 if that is a verdict. partner: be the second process on this machine."""
    place = folder / PLACE
    make_folder(place)
    with explained(place):
        trial = Trial(place)
        with _file(place / "flock") as descriptor, _leaving(trial):
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
        trial.tell()
        time.sleep(TURN_S)


def _linger(trial: Trial) -> None:
    """Stays until the others have seen how it ended."""
    deadline = time.monotonic() + LINGER_S
    trial.tell()
    while time.monotonic() < deadline and not all(
        other["ended"] for name, other in trial.others.items() if trial.is_there(name)
    ):
        time.sleep(TURN_S)
        trial.tell()


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
    """Cleans up: one's own file, and, after the last one, the folder."""
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
    """Whether a process has stopped counting its turns."""
    time.sleep(5 * TURN_S)
    try:
        return bool(json.loads((trial.folder / f"{name}.json").read_text(encoding="utf-8"))["turns"] == found["turns"])
    except (OSError, ValueError):
        return True


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # somebody came
        return


def verdict(trial: Trial, folder: Path) -> tuple[int, str]:
    """The exit code and the sentence."""
    hosts = sorted({trial.host, *(other["host"] for other in trial.others.values())})
    between = " and ".join(hosts)
    everybody = [*trial.others.values(), {"both": trial.both, "bare": trial.bare}]
    if any(each["bare"] for each in everybody):
        return 0, f"{folder} knows no flock: use lock=lease."
    if any(each["both"] for each in everybody):
        return 0, f"flock does not keep processes on {between} apart in {folder}: use lock=lease."
    if not trial.ended:
        return (
            1,
            f"No verdict, the others were not heard of in time: repeat with a larger --seconds, at the same time as {HOW_TO_TEST_TWO} {folder}.",
        )
    if len(hosts) > 1:
        return 0, f"flock keeps {between} apart in {folder}: lock=flock, the default, is right."
    return (
        0,
        f"flock works on {between}; only this machine was tested, so for several repeat with: {HOW_TO_TEST_TWO} {folder}",
    )
