"""Messages between a team and its workers: JSON over one connection, so that what arrives is data and never code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Message = dict[str, Any]


def send(connection: Connection, message: Message) -> None:
    """Send a message as JSON."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next `receive` reports the lost peer
        connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> Message | None:
    """Return the next message; None when the connection is broken."""
    try:
        return json.loads(connection.recv_bytes())
    except (OSError, EOFError):
        return None


@dataclass(frozen=True)
class Order:
    """An artefact to build, as plain values that can be sent to another process.

    stage: kept_epoch, original, oracle, unlearned or scores. config: the whole resolved config of the run. folder, key,
    name: of the artefact. split: the key of the split. title: for the progress bar. model: the folder of the model to
    start from, if any. part: the part of an audit's pool that decides the request; see `data.requests.pool`.
    epoch: after which a kept epoch ends.
    """

    stage: str
    config: Mapping[str, Any]
    folder: str
    key: str
    name: str
    split: str
    title: str
    model: str | None = None
    part: str | None = None
    epoch: int | None = None
