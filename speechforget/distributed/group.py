"""The workers of a run that uses several devices, one process each, and the one process that gives them orders.

The process that runs the command never joins a process group, so nothing that happens to the workers can block it. It starts its workers itself,
or, where a cluster or torchrun started several tasks, one of its own and lets the other tasks' workers come to it. Workers stay for a whole sweep.
When one fails, all are ended, the artefact's folder stays unfinished, and the next order gets a fresh team: no job ever meets another's ranks.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

from speechforget.distributed.environment import Place, place
from speechforget.distributed.protocol import Message, Order, hear, tell
from speechforget.distributed.rendezvous import PATIENCE_S, meeting_file, start_worker
from speechforget.errors import Diverged, NotApplicable, RankError, UserError
from speechforget.store import check_held, make_folder

logger = logging.getLogger(__name__)

SECONDS_TO_TELL = 3.0  # after a first failure, that the others get to say theirs: the cause may come second
SECONDS_BETWEEN_CHECKS = 5.0  # whether the artefact is still ours to make
LOCAL = "127.0.0.1"
CONSEQUENCES = (
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "gloo",
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
)


def ranks_of(trainer: Mapping[str, Any]) -> int:
    """How many processes a run works with."""
    return int(trainer["devices"]) * int(trainer["nodes"])


def check_place(trainer: Mapping[str, Any], mine: Place) -> None:
    """Raises UserError when the tasks that were started are not the devices that are asked for."""
    asked = ranks_of(trainer)
    if mine.world > 1 and mine.world != asked:
        raise UserError(
            f"{mine.world} tasks were started for {asked} devices: trainer.devices (of a machine) times trainer.nodes must be {mine.world}."
        )
    if mine.world == 1 and trainer["nodes"] != 1:
        raise UserError(
            "trainer.nodes is for clusters: start one task for each device (launch=slurm, srun or torchrun), or set trainer.nodes=1."
        )


@dataclass
class Member:
    """A worker that has come."""

    rank: int
    connection: Connection
    name: str


class Team:
    """The workers of this process's runs. size: ranks, on so many nodes. mine: this process's place among its job's tasks."""

    def __init__(self, size: int, nodes: int, mine: Place, output: str) -> None:
        self.size, self.mine, self.output = size, mine, output
        self.host = address(nodes)
        self.secret = secrets.token_hex(16)
        self.closed = False
        self.members: dict[int, Member] = {}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.arrivals: queue.Queue[Connection] = queue.Queue()
        self.listener = Listener((self.host, 0), authkey=self.secret.encode())
        self.doorman = threading.Thread(target=self._receive, daemon=True)
        self.doorman.start()
        if mine.world > 1:
            announce(
                meeting_file(output, mine), {"host": self.host, "port": self.listener.address[1], "secret": self.secret}
            )

    def _receive(self) -> None:
        """Lets workers in, for as long as the listener is open."""
        while True:
            try:
                self.arrivals.put(self.listener.accept())
            except AuthenticationError:
                logger.warning("Somebody without the secret of this run tried to join it.")
            except (OSError, EOFError):
                if self.closed:
                    return
                time.sleep(0.05)

    def perform(self, order: Order) -> None:
        """Has all ranks build. Raises what a rank raised if that is a user's mistake, else RankError, which names the rank and the cause."""
        try:
            self._gather()
            self._order(order)
        except BaseException:
            self.dismiss()
            raise

    def _gather(self) -> None:
        """Starts what is missing, and waits until all have come."""
        own = range(self.size) if self.mine.world == 1 else range(1)
        for rank in own:
            if rank not in self.members:
                self.processes[rank] = start_worker(rank, rank, self.host, self.listener.address[1], self.secret)
        until = time.monotonic() + PATIENCE_S
        while len(self.members) < self.size:
            try:
                connection = self.arrivals.get(timeout=0.5)
                hello = hear(connection)
            except queue.Empty:
                hello = None
            if hello is not None:
                name = f"rank {hello['rank']} (process {hello['process']} on {hello['host']})"
                self.members[hello["rank"]] = Member(hello["rank"], connection, name)
            ended = {rank: code for rank, process in self.processes.items() if (code := process.poll()) is not None}
            if ended:
                raise RankError(
                    "; ".join(f"rank {rank} ended before it began ({how(code)})" for rank, code in ended.items())
                )
            if time.monotonic() > until:
                raise RankError(f"only {len(self.members)} of {self.size} ranks came within {PATIENCE_S:.0f} s")

    def _order(self, order: Order) -> None:
        message = {"order": asdict(order), "world": self.size, "host": self.host}
        for member in self.members.values():
            tell(member.connection, message)
        working = {member.connection: member for member in self.members.values()}
        failures: dict[int, Message] = {}
        until = float("inf")
        while working and time.monotonic() < until:
            check_held(Path(order.folder))
            for connection in wait(
                list(working), timeout=min(SECONDS_BETWEEN_CHECKS, max(0.0, until - time.monotonic()))
            ):
                member = working[connection]  # type: ignore[index]
                said = hear(member.connection)
                if said is not None and "port" in said:
                    for other in self.members.values():
                        if other.rank != 0:
                            tell(other.connection, said)
                    continue
                del working[member.connection]
                if said is None or "failed" in said:
                    failures[member.rank] = said or {"failed": "lost", "reason": self._fate(member.rank)}
                    until = min(until, time.monotonic() + SECONDS_TO_TELL)
        if failures:
            self._raise(failures)

    def _fate(self, rank: int) -> str:
        """Why a worker is gone, as far as can be known."""
        process = self.processes.get(rank)
        if process is None:
            return "its process was lost; its own log may say why"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        return how(process.returncode)

    def _raise(self, failures: Mapping[int, Message]) -> None:
        """The cause: a user's mistake, else a process that was lost, else the first error that is no consequence of another rank's."""
        for kind, error in (("not applicable", NotApplicable), ("user", UserError), ("diverged", Diverged)):
            for failure in failures.values():
                if failure["failed"] == kind:
                    raise error(failure["reason"])

        def order(item: tuple[int, Message]) -> tuple[bool, bool]:
            stack = item[1].get("stack", "")
            return any(word in stack for word in CONSEQUENCES), item[1]["failed"] != "lost"

        rank, failure = sorted(failures.items(), key=order)[0]
        if failure.get("errno") is not None:
            raise OSError(failure["errno"], failure["reason"])
        if "stack" in failure:
            print(failure["stack"], file=sys.stderr, flush=True)
        raise RankError(f"{self.members[rank].name} failed: {failure['reason']}")

    def dismiss(self) -> None:
        """Ends all workers at once; the next order starts new ones."""
        for member in self.members.values():
            member.connection.close()  # whoever runs elsewhere ends when its line breaks
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.members, self.processes = {}, {}

    def close(self) -> None:
        """The last order was given: workers end by themselves, and other tasks learn that this one has finished."""
        for member in self.members.values():
            with contextlib.suppress(OSError):
                tell(member.connection, {"finish": True})
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if self.mine.world > 1:
            with contextlib.suppress(OSError, UserError):
                announce(meeting_file(self.output, self.mine), {"finished": True})
        self.closed = True
        # The listener's descriptor goes to the next one that is opened, so nobody may still wait at it, with the secret of this team.
        with contextlib.suppress(OSError):
            socket.create_connection(self.listener.address, timeout=1).close()
        self.doorman.join(5)
        self.listener.close()
        self.dismiss()


def announce(meeting: Path, message: Message) -> None:
    """Writes where other tasks look, for nobody but the user to read: it holds the secret of the team."""
    make_folder(meeting.parent)
    temporary = meeting.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(message, file)
    temporary.replace(meeting)


def address(nodes: int) -> str:
    """Where this process listens: on the loopback, unless workers on other machines must reach it."""
    if nodes == 1:
        return LOCAL
    found = socket.gethostbyname(os.environ.get("MASTER_ADDR") or socket.gethostname())
    if (
        found.startswith("127.") and "MASTER_ADDR" not in os.environ
    ):  # some systems give their own name a loopback address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # an address for documentation; connecting such a socket sends nothing
            found = probe.getsockname()[0]
    return found


def how(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "it no longer answered"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"exit code {code}"


_team: Team | None = None


def perform(order: Order) -> None:
    """Has this process's team build; the team is made at the first order, and stays."""
    open_team(order.config).perform(order)


def open_team(config: Mapping[str, Any]) -> Team:
    """This process's team, which is another one where another number of ranks is asked for."""
    global _team  # noqa: PLW0603
    size = ranks_of(config["trainer"])
    if _team is not None and _team.size != size:
        close_team()
    if _team is None:
        _team = Team(size, int(config["trainer"]["nodes"]), place(), config["output"])
        atexit.register(close_team)
    return _team


def close_team() -> None:
    """Sends the workers home."""
    global _team  # noqa: PLW0603
    atexit.unregister(close_team)
    if _team is not None:
        _team.close()
    _team = None
