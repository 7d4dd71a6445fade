"""Read the file of an offline W&B run: framed records, each a protocol buffer of the package wandb.

A file is a header of seven bytes and blocks of 32 KiB. A record is cut at the end of a block into first, middle and
last parts, each behind a checksum (4 bytes), its length (2) and its kind (1), as in logs of LevelDB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK, FRAME = 7, 1 << 15, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """Hold what a run logged. run: id, name, group, job type, tags. artifacts: in order. ended: whether it finished."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    ended: bool = False

    @property
    def keys(self) -> set[str]:
        """Return all names in history and summary."""
        return {name for row in (*self.history, self.summary) for name in row}

    @property
    def settings(self) -> set[str]:
        """Return the names of all settings, with dots."""
        return set(_leaves(self.config))


def read_run(path: Path) -> OfflineRun:
    """Read a file that ends with `.wandb`; one that was cut off is read up to there."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = OfflineRun()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found.run = {"id": run.run_id, "name": run.display_name, "group": run.run_group}
                found.run |= {"project": run.project, "job_type": run.job_type, "tags": list(run.tags)}
                found.config |= _items(run.config.update)
            case "config":
                found.config |= _items(record.config.update)
            case "history":
                found.history.append(_items(record.history.item))
            case "summary":
                found.summary |= _items(record.summary.update)
            case "artifact":
                found.artifacts.append(record.artifact)
            case "exit":
                found.ended = True
    return found


def offline_runs(folder: Path) -> list[Path]:
    """List the files of offline runs below an output folder."""
    return sorted(folder.glob("**/wandb/offline-run-*/run-*.wandb"))


def _items(updates: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def _leaves(value: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaves(item, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _records(content: bytes) -> Iterator[bytes]:
    place, parts = HEADER, b""
    while place + FRAME.size <= len(content):
        if (left := BLOCK - place % BLOCK) < FRAME.size:
            place += left  # no frame begins in the last bytes of a block
            continue
        _, length, kind = FRAME.unpack_from(content, place)
        place += FRAME.size
        piece = content[place : place + length]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(piece) < length:
            return
        place += length
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield parts
