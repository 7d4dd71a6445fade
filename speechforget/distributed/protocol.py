"""What the team and its workers say to each other: JSON over one connection, so what arrives is data, never code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Message = dict[str, Any]


def tell(connection: Connection, message: Message) -> None:
    """Sends JSON."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # that the worker is gone shows when it is heard
        connection.send_bytes(json.dumps(message).encode())


def hear(connection: Connection) -> Message | None:
    """The next message; None when the line is broken."""
    try:
        return json.loads(connection.recv_bytes())
    except (OSError, EOFError):
        return None


@dataclass(frozen=True)
class Order:
    """What to build; plain values, so it can be sent to another process.

    stage: original, oracle, unlearned or scores. config: the whole resolved config of the run. folder, key, name: the artefact's.
    split: the key of the divided corpus that the order is about. title: for the progress bar. model: the folder of the model that the work
    starts from, if any.
    """

    stage: str
    config: Mapping[str, Any]
    folder: str
    key: str
    name: str
    split: str
    title: str
    model: str | None = None
