"""Run one rank on one device: build what the team orders, and exit when its connection breaks.

A worker has one connection to the process that runs the command. When that breaks, for any reason, the worker exits at
once, in the middle of its work: no worker outlives its team. The ranks form a new process group for each order.
"""

from __future__ import annotations

import fcntl
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

from speechforget.distributed.protocol import Message, Order, receive, send
from speechforget.distributed.rendezvous import FINISHED, LOST, PATIENCE_S
from speechforget.errors import Diverged, NotApplicable, UserError
from speechforget.terminal import print_anywhere

ORPHANED = 3  # exit code after a broken connection
SECONDS_TO_CONNECT = 30.0
SIOCGIFADDR = 0x8915  # Linux: get the address of an interface
Build = Callable[[Order], None]
Prepare = Callable[[Mapping[str, Any]], Any]


def work(rank: int, host: str, port: int, build: Build, prepare: Prepare) -> int:
    """Carry out orders until told to finish; return the exit code.

    build: carries out one order. prepare: makes this process ready for the device of a trainer.
    """
    print_anywhere()
    # These signals are for the process that runs the command; the broken connection ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # A team that dies while this process shakes hands with it would leave it waiting for ever.
    deadline = threading.Timer(PATIENCE_S, os._exit, [LOST])
    deadline.daemon = True
    deadline.start()
    connection = connect(host, port, os.environ.pop("SPEECHFORGET_SECRET").encode())
    deadline.cancel()
    if connection is None:
        return LOST
    send(connection, {"rank": rank, "process": os.getpid(), "host": socket.gethostname()})
    inbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=listen, args=(connection, inbox), daemon=True).start()
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("speechforget.data").setLevel(logging.WARNING)  # the team's process has logged this
    while True:
        message = inbox.get()
        if message.get("finish"):
            return FINISHED
        send(connection, answer(message, rank, connection, inbox, build, prepare))


def connect(host: str, port: int, secret: bytes) -> Connection | None:
    """Return the connection to the team; None when no team answers."""
    until = time.monotonic() + SECONDS_TO_CONNECT
    while time.monotonic() < until:
        try:
            return Client((host, port), authkey=secret)
        except (OSError, EOFError):
            time.sleep(0.2)
    return None


def listen(connection: Connection, inbox: queue.Queue[Message]) -> None:
    """Put messages into the inbox; exit the process when the connection breaks."""
    while (message := receive(connection)) is not None:
        inbox.put(message)
    os._exit(ORPHANED)


def answer(
    message: Message,
    rank: int,
    connection: Connection,
    inbox: queue.Queue[Message],
    build: Build,
    prepare: Prepare,
) -> Message:
    """Carry out one order and return the result as a message."""
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
    """Form the process group of one order: rank 0 opens a store on `message["host"]`; the team passes its port on."""
    import torch
    from torch import distributed

    host, world = message["host"], message["world"]
    gpu = message["order"]["config"]["trainer"]["accelerator"] == "gpu"
    # By default gloo takes the interface of the machine's name, often the loopback.
    if (interface := interface_towards(host)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if rank == 0:
        listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        store = distributed.TCPStore(
            host, port, world, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        send(connection, {"port": port})
    else:
        store = distributed.TCPStore(host, inbox.get()["port"], world, False, wait_for_workers=False)
    if gpu and torch.cuda.is_available():
        prepare(message["order"]["config"]["trainer"])  # NCCL uses the current device
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(hours=2)
    )
    yield
    distributed.barrier()  # rank 0 owns the store: no rank may leave while another one needs it
    distributed.destroy_process_group()  # not after a failure: it would wait for ranks that hang


def interface_towards(host: str) -> str | None:
    """Return the name of the network interface that leads to a host; None where it cannot be determined."""
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
