"""Start one worker per device and give all of them orders, from the process that runs the command.

That process never joins a process group, so no worker can block it. It starts its workers itself. Where a cluster or
torchrun started several ranks, it starts its own worker, and the workers of the other ranks connect to it. Workers stay
for a whole sweep. When one fails, all are killed, the artefact's folder stays unfinished, and the next order gets a new
team, so ranks of different jobs never meet.

torch.distributed.elastic does not start them: it would load torch into the process that runs the command, returns when
one function has returned on all ranks while a team takes many orders, and reports a user mistake as a stack trace.
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

from speechforget.distributed.environment import JobRank, job_rank
from speechforget.distributed.protocol import Message, Order, receive, send
from speechforget.distributed.rendezvous import PATIENCE_S, meeting_file, start_worker
from speechforget.errors import Diverged, NotApplicable, RankError, UserError
from speechforget.store import check_held, make_folder

logger = logging.getLogger(__name__)

SECONDS_TO_REPORT = 3.0  # for the other ranks after a first failure: the cause may be reported second
SECONDS_BETWEEN_CHECKS = 5.0  # that this process still holds the lock of the artefact
LOCAL = "127.0.0.1"
RANKS_PER_CORE = 4  # more share a core to no end
CONSEQUENCES = (  # words in the stack of a rank that failed because another one did
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "gloo",
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
)


def ranks_of(trainer: Mapping[str, Any]) -> int:
    """Return the number of ranks that a run uses."""
    return int(trainer["devices"]) * int(trainer["nodes"])


def check_ranks(trainer: Mapping[str, Any], mine: JobRank) -> None:
    """Raise UserError where other ranks were started than the config asks for, or a machine has too few cores."""
    asked = ranks_of(trainer)
    if mine.world > 1 and mine.world != asked:
        raise UserError(
            f"{mine.world} ranks were started for {asked} devices: "
            f"trainer.devices (per machine) times trainer.nodes must be {mine.world}."
        )
    if mine.world == 1 and trainer["nodes"] != 1:
        raise UserError(
            "trainer.nodes is for clusters: start one rank per device (launch=slurm, srun or torchrun), "
            "or set trainer.nodes=1."
        )
    most = RANKS_PER_CORE * (os.cpu_count() or 1)
    if mine.world == 1 and trainer["accelerator"] == "cpu" and asked > most:
        raise UserError(f"trainer.devices={asked} would start {asked} processes here: use at most {most}.")


@dataclass
class Member:
    """A connected worker."""

    rank: int
    connection: Connection
    name: str


class Team:
    """The workers of this process: `size` ranks on `nodes` machines. mine: the rank of this process in its job."""

    def __init__(self, size: int, nodes: int, mine: JobRank, output: str) -> None:
        self.size, self.mine, self.output = size, mine, output
        self.host = address(nodes)
        self.secret = secrets.token_hex(16)
        self.closed = False
        self.members: dict[int, Member] = {}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.arrivals: queue.Queue[Connection] = queue.Queue()
        self.listener = Listener((self.host, 0), backlog=size, authkey=self.secret.encode())
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()
        if mine.world > 1:
            message = {"host": self.host, "port": self.listener.address[1], "secret": self.secret}
            announce(meeting_file(output, mine), message)

    def _accept(self) -> None:
        """Accept connections of workers while the listener is open."""
        while True:
            try:
                self.arrivals.put(self.listener.accept())
            except AuthenticationError:
                logger.warning("A process without the secret of this run tried to connect, and was refused.")
            except (OSError, EOFError):
                if self.closed:
                    return
                time.sleep(0.05)

    def perform(self, order: Order) -> None:
        """Let all ranks build. Raises the user mistake of a rank, else RankError with the rank and the cause."""
        try:
            self._gather()
            self._order(order)
        except BaseException:
            self.dismiss()
            raise

    def _gather(self) -> None:
        """Start missing workers and wait until all are connected."""
        own = range(self.size) if self.mine.world == 1 else range(1)
        for rank in own:
            if rank not in self.members:
                self.processes[rank] = start_worker(rank, rank, self.host, self.listener.address[1], self.secret)
        until = time.monotonic() + PATIENCE_S
        while len(self.members) < self.size:
            try:
                connection = self.arrivals.get(timeout=0.5)
                hello = receive(connection)
            except queue.Empty:
                hello = None
            if hello is not None:
                name = f"rank {hello['rank']} (process {hello['process']} on {hello['host']})"
                self.members[hello["rank"]] = Member(hello["rank"], connection, name)
            ended = {rank: code for rank, process in self.processes.items() if (code := process.poll()) is not None}
            if ended:
                words = [f"rank {rank} ended before it connected ({describe_exit(ended[rank])})" for rank in ended]
                raise RankError("; ".join(words))
            if time.monotonic() > until:
                raise RankError(f"only {len(self.members)} of {self.size} ranks connected within {PATIENCE_S:.0f} s")

    def _order(self, order: Order) -> None:
        message = {"order": asdict(order), "world": self.size, "host": self.host}
        for member in self.members.values():
            send(member.connection, message)
        working = {member.connection: member for member in self.members.values()}
        failures: dict[int, Message] = {}
        until = float("inf")
        while working and time.monotonic() < until:
            check_held(Path(order.folder))
            for connection in wait(
                list(working), timeout=min(SECONDS_BETWEEN_CHECKS, max(0.0, until - time.monotonic()))
            ):
                member = working[connection]  # type: ignore[index]
                said = receive(member.connection)
                if said is not None and "port" in said:
                    for other in self.members.values():
                        if other.rank != 0:
                            send(other.connection, said)
                    continue
                del working[member.connection]
                if said is None or "failed" in said:
                    failures[member.rank] = said or {"failed": "lost", "reason": self._fate(member.rank)}
                    until = min(until, time.monotonic() + SECONDS_TO_REPORT)
        if failures:
            self._raise(failures)

    def _fate(self, rank: int) -> str:
        """Say why a worker is gone."""
        process = self.processes.get(rank)
        if process is None:
            return "its process was lost; see the log of that rank"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        return describe_exit(process.returncode)

    def _raise(self, failures: Mapping[int, Message]) -> None:
        """Raise the cause: a user mistake, else a lost process, else the first error not caused by another rank."""
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
        """Kill all workers; the next order starts new ones."""
        for member in self.members.values():
            member.connection.close()  # ends workers on other machines
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.members, self.processes = {}, {}

    def close(self) -> None:
        """Tell the workers, and the other ranks of the job, that there are no more orders."""
        for member in self.members.values():
            with contextlib.suppress(OSError):
                send(member.connection, {"finish": True})
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if self.mine.world > 1:
            with contextlib.suppress(OSError, UserError):
                announce(meeting_file(self.output, self.mine), {"finished": True})
        self.closed = True
        # The next listener may get the same descriptor, so no thread may still wait on it with the secret of this team.
        with contextlib.suppress(OSError):
            socket.create_connection(self.listener.address, timeout=1).close()
        self.acceptor.join(5)
        self.listener.close()
        self.dismiss()


def announce(meeting: Path, message: Message) -> None:
    """Write the address of the team for the other ranks; only the user may read the file, as it contains the secret."""
    make_folder(meeting.parent)
    temporary = meeting.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(message, file)
    temporary.replace(meeting)


def address(nodes: int) -> str:
    """Return the address to listen on: the loopback, unless workers on other machines must reach it."""
    if nodes == 1:
        return LOCAL
    found = socket.gethostbyname(os.environ.get("MASTER_ADDR") or socket.gethostname())
    # Some systems map their own name to a loopback address.
    if found.startswith("127.") and "MASTER_ADDR" not in os.environ:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # an address for documentation; UDP sends nothing here
            found = probe.getsockname()[0]
    return found


def describe_exit(code: int | None) -> str:
    """Put an exit code into words."""
    if code is None:
        return "it did not answer any more"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"exit code {code}"


_team: Team | None = None


def perform(order: Order) -> None:
    """Let the team of this process build; the first order starts the team."""
    open_team(order.config).perform(order)


def open_team(config: Mapping[str, Any]) -> Team:
    """Return the team of this process; a new one where the number of ranks has changed."""
    global _team  # noqa: PLW0603
    size = ranks_of(config["trainer"])
    if _team is not None and _team.size != size:
        close_team()
    if _team is None:
        _team = Team(size, int(config["trainer"]["nodes"]), job_rank(), config["output"])
        atexit.register(close_team)
    return _team


def close_team() -> None:
    """Close the team of this process, if there is one."""
    global _team  # noqa: PLW0603
    atexit.unregister(close_team)
    if _team is not None:
        _team.close()
    _team = None
