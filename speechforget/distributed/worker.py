"""A worker: one rank on one device, that builds what it is ordered to, and ends when nobody orders any more.

It holds one connection to the process that runs the command. When that breaks, for whatever reason, the worker ends at once, in the middle of
whatever it does: so no worker outlives its team. For each order the ranks form a process group of their own, and leave it afterwards.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from typing import Any

from speechforget.distributed.protocol import Message, Order, tell
from speechforget.distributed.rendezvous import FINISHED, LOST
from speechforget.errors import Diverged, NotApplicable, UserError
from speechforget.terminal import print_anywhere

LEFT_ALONE = 3  # exit code when the connection broke
SECONDS_TO_CONNECT = 30.0
SIOCGIFADDR = 0x8915  # of Linux: the address of an interface
Build = Callable[[Order], None]
Prepare = Callable[[Mapping[str, Any]], Any]


def work(rank: int, host: str, port: int, build: Build, prepare: Prepare) -> int:
    """Takes orders until told to finish.

    build: carries out an order. prepare: makes this process ready for a trainer's device.
    """
    print_anywhere()
    for name in (
        "SIGINT",
        "SIGTERM",
        "SIGUSR1",
        "SIGUSR2",
    ):  # those are for the process that runs the command; the connection ends this one
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection = connect(host, port, os.environ.pop("SPEECHFORGET_SECRET").encode())
    if connection is None:
        return LOST
    tell(connection, {"rank": rank, "process": os.getpid(), "host": socket.gethostname()})
    inbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=listen, args=(connection, inbox), daemon=True).start()
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("speechforget.data").setLevel(logging.WARNING)  # the process that gives the orders has said it
    while True:
        message = inbox.get()
        if message.get("finish"):
            return FINISHED
        tell(connection, answer(message, rank, connection, inbox, build, prepare))


def connect(host: str, port: int, secret: bytes) -> Connection | None:
    """The line to the team; None when nobody answers."""
    until = time.monotonic() + SECONDS_TO_CONNECT
    while time.monotonic() < until:
        try:
            return Client((host, port), authkey=secret)
        except (OSError, EOFError):
            time.sleep(0.2)
    return None


def listen(connection: Connection, inbox: queue.Queue[Message]) -> None:
    """Fills the inbox; ends the process when the line breaks."""
    while True:
        try:
            inbox.put(json.loads(connection.recv_bytes()))
        except (OSError, EOFError):
            os._exit(LEFT_ALONE)


def answer(
    message: Message,
    rank: int,
    connection: Connection,
    inbox: queue.Queue[Message],
    build: Build,
    prepare: Prepare,
) -> Message:
    """Carries out one order; says how it went."""
    try:
        with group(message, rank, connection, inbox, prepare):
            build(Order(**message["order"]))
    except NotApplicable as error:
        return {"failed": "not applicable", "reason": str(error)}
    except Diverged as error:
        return {"failed": "diverged", "reason": str(error)}
    except UserError as error:
        return {"failed": "user", "reason": str(error)}
    except BaseException as error:
        return {
            "failed": "error",
            "reason": f"{type(error).__name__}: {error}",
            "errno": getattr(error, "errno", None),
            "stack": traceback.format_exc(),
        }
    return {"done": True}


@contextmanager
def group(
    message: Message, rank: int, connection: Connection, inbox: queue.Queue[Message], prepare: Prepare
) -> Iterator[None]:
    """The process group of one order: rank 0 opens a store on `message["host"]` and tells the others its port through the team."""
    import torch
    from torch import distributed

    host, world = message["host"], message["world"]
    gpu = message["order"]["config"]["trainer"]["accelerator"] == "gpu"
    if (interface := interface_towards(host)) is not None:
        os.environ.setdefault(
            "GLOO_SOCKET_IFNAME", interface
        )  # else gloo takes the one that the machine's name leads to, often the loopback
    if rank == 0:
        listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        store = distributed.TCPStore(
            host, port, world, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        tell(connection, {"port": port})
    else:
        store = distributed.TCPStore(host, inbox.get()["port"], world, False, wait_for_workers=False)
    if gpu and torch.cuda.is_available():
        prepare(message["order"]["config"]["trainer"])  # NCCL uses the current device
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(hours=2)
    )
    yield
    distributed.barrier()  # the store lives with rank 0: nobody leaves before all have what they need
    distributed.destroy_process_group()  # after a failure the process itself ends: taking leave of ranks that hang would hang, too


def interface_towards(host: str) -> str | None:
    """The name of the network interface by which this machine reaches a host; None where that cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
        probe.connect((host, 9))
        mine = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                request = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(request[20:24]) == mine:
                return name
    return None
