"""What nobody needs any more, and its removal: never what a result was made of, never what somebody is making."""

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
LOOK_AGAIN_S = 2.0
DAY_S = 86400.0
AUDIO = ("audio", "audio-on-demand")  # caches of recordings, with their samples and without


@dataclass(frozen=True)
class Removable:
    """path: a folder, or a lock file. size: bytes. reason: in words. guarded: whether its lock must be held while it is removed."""

    path: Path
    size: int
    reason: str
    guarded: bool = True


def removable(output: Path, unreferenced_only: bool, days: float) -> tuple[list[Removable], int]:
    """What could go from an output folder, and how many artefacts were spared though no result refers to them.

    days: how long caches, sweeps and peers must have lain untouched. Where somebody is making something, a finished artefact must be as old, too:
    a run that goes on may be about to use it.
    """
    nodes = read_graph(output)
    kept = {node.folder for node in needed(node for node in nodes if node.is_root)}
    busy = any(node.state == "in use" for node in nodes)
    found, spared = [], 0
    for node in nodes:
        if node.folder in kept:
            continue
        if node.state == "unfinished":
            found += (
                [] if unreferenced_only else [Removable(node.folder, node.size, "unfinished, and nobody is making it")]
            )
        elif busy and _age_days(node.folder) < days:
            spared += 1
        else:
            found.append(Removable(node.folder, node.size, "no result refers to it"))
    return found if unreferenced_only else [*found, *_locks(output), *_old(output, days)], spared


def _age_days(folder: Path) -> float:
    return (time.time() - (folder / DONE).stat().st_mtime) / DAY_S


def _locks(output: Path) -> Iterator[Removable]:
    """Lock files of dead processes: beside folders that are done, or gone. Beside an unfinished one they go with it."""
    caches = [output / "cache" / kind for kind in (*AUDIO, "espeak")]
    stages = [path for path in output.iterdir() if path.is_dir() and path.name not in OTHERS]
    for place in [*stages, *(path for path in caches if path.is_dir())]:
        for path in sorted(place.glob("*.lock")):
            folder = path.with_suffix("")
            if (read_done(folder) is not None or not folder.exists()) and who_holds(path) is None:
                yield Removable(path, 0, "lock of a process that died")
        for path in sorted(place.glob("*.holder")):
            yield Removable(path, 0, "left by an earlier version", guarded=False)


def _old(output: Path, days: float) -> Iterator[Removable]:
    audio = [(f"cache/{kind}/*", "decoded audio") for kind in AUDIO]
    for pattern, what in (*audio, ("sweeps/*", "jobs of a sweep"), ("peers/*", "meeting place of processes")):
        for folder in sorted(path for path in output.glob(pattern) if path.is_dir()):
            age = (time.time() - _touched(folder)) / DAY_S
            if age > days and who_holds(lock_file(folder)) is None:
                yield Removable(
                    folder,
                    folder_size(folder),
                    f"{what}, untouched for {age:.0f} days",
                    guarded=pattern.startswith("cache"),
                )


def _touched(folder: Path) -> float:
    """When something in a folder was last written, or read as far as the file system keeps account of that; seconds since 1970."""
    moments = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        status = path.lstat()
        moments += [status.st_mtime, status.st_atime if path.is_file() else 0]
    return max(moments)


def remove(output: Path, chosen: list[Removable]) -> tuple[list[Removable], list[Removable]]:
    """Removes what was chosen; gives what is gone, and what was kept, since somebody needs it or is making it by now."""
    gone: list[Removable] = []
    kept: list[Removable] = []
    in_need = _Needed(output)
    waiting = [(each, _claim(each) if each.guarded else None) for each in chosen]
    # A dead process's lease expires only before the eyes of who waits: all of them are watched at once.
    deadline = time.monotonic() + 1.5 * LEASE_S
    while waiting:
        later: list[tuple[Removable, Lease | None]] = []
        for each, claim in waiting:
            with explained(each.path, "{folder} cannot be removed ({reason}): that is for its owner to do."):
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
    """What must be kept, looked at again every few seconds: runs may go on while others are removed, or while a person thinks."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folders: set[Path] = set()
        self.until = 0.0

    def __contains__(self, folder: Path) -> bool:
        if time.monotonic() > self.until:
            nodes = read_graph(self.output)
            # The lock under which a folder is removed makes it look as if somebody were making it: that is us.
            roots = [node for node in nodes if node.is_root and not (node.state == "in use" and is_mine(node.holder))]
            self.folders = {node.folder for node in needed(roots)}
            self.until = time.monotonic() + LOOK_AGAIN_S
        return folder in self.folders


def _remove_held(each: Removable, claim: Lease | None, in_need: _Needed) -> bool:
    try:
        if each.path.is_dir() and (each.path in in_need or _finished_since(each)):
            return False
        if claim is not None:
            claim.check()
        _remove(each.path)
        return True
    finally:
        if claim is not None:
            claim.release()


def _finished_since(each: Removable) -> bool:
    return each.reason.startswith("unfinished") and read_done(each.path) is not None


def _remove(path: Path) -> None:
    if path.is_dir():
        (path / DONE).unlink(missing_ok=True)  # first: what is half removed must not look whole
        shutil.rmtree(path)
    elif path.suffix != ".lock":  # a lock file goes when its lock is given back
        path.unlink(missing_ok=True)
