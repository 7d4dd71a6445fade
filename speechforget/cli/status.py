"""`speechforget status outputs`: what is finished, what runs and how far it is, what waits for what, what failed."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.progress import FOLDER
from speechforget.store.graph import STAGES, Node, read_graph
from speechforget.store.holders import describe
from speechforget.terminal import print_anywhere

SILENT_S = 120.0  # a process of another machine without a note for so long may be dead
CLEAR = "\033[H\033[J"  # of a terminal

Note = dict[str, Any]  # of `speechforget.progress.note`


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("speechforget status", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("outputs"), help="output folder of the runs (default: outputs)"
    )
    parser.add_argument("--watch", action="store_true", help="print it again and again, until nothing runs")
    parser.add_argument("--seconds", type=float, default=5, help="between two prints of --watch (default: 5)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; for a user's mistake print one sentence and return exit code 1."""
    print_anywhere()
    options = _arguments(arguments)
    try:
        while True:
            nodes, notes = read_graph(options.folder), read_notes(options.folder)
            if options.watch and sys.stdout.isatty():
                print(CLEAR, end="")
            print("\n".join(lines(options.folder, nodes, notes)), flush=True)
            if not options.watch or not (notes or any(node.state == "in use" for node in nodes)):
                return 0
            time.sleep(options.seconds)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def read_notes(output: Path) -> list[Note]:
    """Read what processes note below an output folder; those of dead processes of this machine are left out."""
    found = []
    for path in sorted((output / FOLDER).glob("*.json")):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # removed meanwhile
            continue
        if read["host"] != socket.gethostname() or _lives(int(read["pid"])):
            found.append(read)
    return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def lines(output: Path, nodes: Sequence[Node], notes: Sequence[Note]) -> Iterator[str]:
    """Write the lines: finished artefacts by stage, those being built, other processes, unfinished ones, sweeps."""
    counts = Counter(node.stage for node in nodes if node.state == "done")
    order = sorted(counts, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))
    yield f"{output}: " + (", ".join(f"{counts[stage]} {stage}" for stage in order) or "nothing finished yet")
    built = [node for node in nodes if node.state == "in use"]
    yield from _section("being built", [_built(node, notes) for node in built])
    holders = {_process(node.holder or {}) for node in built}
    others = [note for note in notes if _process(note) not in holders or str(note["doing"]).startswith("waits")]
    yield from _section("other processes", [_other(note) for note in others])
    stopped = [f"{node.stage}/{node.folder.name}" for node in nodes if node.state == "unfinished"]
    yield from _section("stopped before the end; the same command goes on from there", stopped)
    damaged = [f"{node.stage}/{node.folder.name}: {'; '.join(node.problems)}" for node in nodes if node.problems]
    yield from _section("damaged", damaged)
    yield from _section("sweeps", list(_sweeps(output)))


def _section(title: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield f"{title} ({len(entries)})"
        yield from (f"  {entry}" for entry in entries)


def _process(record: Note) -> tuple[Any, Any]:
    return record.get("host"), record.get("pid")


def _built(node: Node, notes: Sequence[Note]) -> str:
    holder = node.holder or {}
    own = [progress(note) for note in notes if _process(note) == _process(holder)]
    since = f" since {holder['started'][11:16]}" if "started" in holder else ""
    return ", ".join([f"{node.stage}/{node.folder.name}: {describe(holder)}{since}", *own])


def _other(note: Note) -> str:
    job = f" ({note['job']})" if note.get("job") else ""
    return f"process {note['pid']} on {note['host']}{job}: {progress(note)}"


def progress(note: Note) -> str:
    """Describe a process: what it does, its progress, the time left, and the time since its last note."""
    n, total, rate = note.get("n"), note.get("total"), note.get("rate")
    parts = [str(note["doing"])]
    if n is not None and total:
        parts.append(f"{100 * n / total:.0f} % of {total:.0f} {note.get('unit', '')}s")
        rate = rate or (n / note["elapsed"] if note.get("elapsed") else None)
        parts += [f"{_clock((total - n) / rate)} left"] if rate else []
    silent = time.time() - float(note["updated"])
    parts += [f"no word for {_clock(silent)}"] if silent > SILENT_S else []
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _sweeps(output: Path) -> Iterator[str]:
    """Say of each sweep how its jobs ended, and give the reasons of those that failed."""
    for folder in sorted((output / "sweeps").glob("*"), key=lambda path: path.stat().st_mtime):
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        ended = Counter(str(outcome["outcome"]) for outcome in found)
        if ended:
            yield f"{folder.name}: " + ", ".join(f"{count} {word}" for word, count in ended.most_common())
            failed = [outcome for outcome in found if outcome["outcome"] in ("failed", "cancelled")]
            yield from (f"  {' '.join(outcome['overrides'])}: {outcome['reason']}" for outcome in failed)
