"""Garbage-collect artefacts that no result references, abandoned folders and locks, and unused caches.

What a result depends on, and what a process is building, is never removed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechforget.store.claims import LEASE_S, Lease
from speechforget.store.files import explained
from speechforget.store.graph import OTHERS, folder_size, needed, read_graph
from speechforget.store.holders import is_mine, who_holds
from speechforget.store.locks import lock_file
from speechforget.store.manifest import DONE, read_done

POLL_S = 0.2
REFRESH_S = 2.0
DAY_S = 86400.0
UNFINISHED = "unfinished, and nobody is building it"
# Kinds of caches below `cache`, and what they hold.
CACHES = {
    "audio": "decoded recordings",
    "audio-on-demand": "lengths and hashes of recordings",
    "espeak": "synthesised recordings",
}
# Folders that hold no artefacts, by their pattern below an output folder.
FOLDERS = {
    **{f"cache/{kind}/*": what for kind, what in CACHES.items()},
    "sweeps/*": "jobs of a sweep",
    "peers/*": "meeting place of processes",
}


@dataclass(frozen=True)
class Removable:
    """Name something that can be removed.

    path: a folder or a lock file. size: bytes. guarded: whether its lock must be held during the removal.
    """

    path: Path
    size: int
    reason: str
    guarded: bool = True


def removable(output: Path, unreferenced_only: bool, days: float) -> tuple[list[Removable], int]:
    """Find what can be removed from an output folder; also return the number of artefacts that are spared.

    days: how long caches, sweeps and peers must be unused. While a process builds something, finished artefacts must be
        that old too, because a running job may need the younger ones; these are the spared ones.
    """
    nodes = read_graph(output)
    kept = {node.folder for node in needed(node for node in nodes if node.is_root)}
    busy = any(node.state == "in use" for node in nodes)
    found, spared = [], 0
    for node in nodes:
        if node.folder in kept:
            continue
        if node.state == "unfinished":
            found += [] if unreferenced_only else [Removable(node.folder, node.size, UNFINISHED)]
        elif busy and _age_days(node.folder) < days:
            spared += 1
        else:
            found.append(Removable(node.folder, node.size, "no result references it"))
    return found if unreferenced_only else [*found, *_locks(output), *_unused(output, days)], spared


def _age_days(folder: Path) -> float:
    return (time.time() - (folder / DONE).stat().st_mtime) / DAY_S


def _locks(output: Path) -> Iterator[Removable]:
    """Yield lock files of dead processes, beside folders that are finished or gone.

    The lock beside an unfinished folder goes together with the folder.
    """
    stages = [path for path in output.iterdir() if path.is_dir() and path.name not in OTHERS]
    for parent in [*stages, *(output / "cache" / kind for kind in CACHES)]:
        for path in sorted(parent.glob("*.lock")):
            folder = path.with_suffix("")
            if (read_done(folder) is not None or not folder.exists()) and who_holds(path) is None:
                yield Removable(path, 0, "lock of a process that died")
        for path in sorted(parent.glob("*.holder")):
            yield Removable(path, 0, "left by an earlier version", guarded=False)


def _unused(output: Path, days: float) -> Iterator[Removable]:
    """Yield caches, folders of sweeps and meeting places of processes that nobody uses.

    An unfinished cache that nobody builds is useless at any age, because the next run builds it from the beginning.
    """
    for pattern, what in FOLDERS.items():
        is_cache = pattern.startswith("cache")
        for folder in sorted(path for path in output.glob(pattern) if path.is_dir()):
            if who_holds(lock_file(folder)) is not None:
                continue
            age = (time.time() - _last_use(folder)) / DAY_S
            if is_cache and read_done(folder) is None:
                yield Removable(folder, folder_size(folder), UNFINISHED)
            elif age > days:
                yield Removable(folder, folder_size(folder), f"{what}, unused for {age:.0f} days", guarded=is_cache)


def _last_use(folder: Path) -> float:
    """Return the last write, or the last read if the file system records it, in seconds since 1970."""
    moments = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        status = path.lstat()
        moments += [status.st_mtime, status.st_atime if path.is_file() else 0]
    return max(moments)


def remove(output: Path, chosen: list[Removable]) -> tuple[list[Removable], list[Removable]]:
    """Remove what was chosen; return what is gone, and what was kept because a process needs or builds it by now."""
    gone: list[Removable] = []
    kept: list[Removable] = []
    in_need = _Needed(output)
    waiting = [(each, _claim(each) if each.guarded else None) for each in chosen]
    # The lease of a dead process expires only while somebody watches it, so watch all of them at once.
    deadline = time.monotonic() + 1.5 * LEASE_S
    while waiting:
        later: list[tuple[Removable, Lease | None]] = []
        for each, claim in waiting:
            with explained(each.path, "{folder} cannot be removed ({reason}): ask its owner to remove it."):
                if claim is None or claim.try_acquire():
                    (gone if _remove_held(each, claim, in_need) else kept).append(each)
                elif who_holds(claim.path) is None and time.monotonic() < deadline:
                    later.append((each, claim))
                else:
                    kept.append(each)
        waiting = later
        if waiting:
            time.sleep(POLL_S)
    return gone, kept


def _claim(each: Removable) -> Lease:
    return Lease(each.path if each.path.suffix == ".lock" else lock_file(each.path))


class _Needed:
    """Hold what must be kept, and read it again every few seconds.

    Runs may continue during the removal, or while a person thinks about the answer.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folders: set[Path] = set()
        self.until = 0.0

    def __contains__(self, folder: Path) -> bool:
        if time.monotonic() > self.until:
            nodes = read_graph(self.output)
            # The lock of this process on a folder that it removes does not mean that the folder is being built.
            roots = [node for node in nodes if node.is_root and not (node.state == "in use" and is_mine(node.holder))]
            self.folders = {node.folder for node in needed(roots)}
            self.until = time.monotonic() + REFRESH_S
        return folder in self.folders


def _remove_held(each: Removable, claim: Lease | None, in_need: _Needed) -> bool:
    try:
        if each.path.is_dir() and (each.path in in_need or _finished_since(each)):
            return False
        if claim is not None:
            claim.check()
        remove_path(each.path)
        return True
    finally:
        if claim is not None:
            claim.release()


def _finished_since(each: Removable) -> bool:
    return each.reason == UNFINISHED and read_done(each.path) is not None


def remove_path(path: Path) -> None:
    """Remove a folder, or a file that is no lock."""
    if path.is_dir():
        # First, so that a folder removed by half does not look finished.
        (path / DONE).unlink(missing_ok=True)
        shutil.rmtree(path)
    elif path.suffix != ".lock":  # releasing a lock removes its file
        path.unlink(missing_ok=True)
