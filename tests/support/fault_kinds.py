"""The kinds of faults that a round injects: signals, damaged files, disks and changed recordings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from support.faults import Bench, FaultError, Round, Sweep, artefacts, clear, processes

from speechforget.store import read_done

SIGHTS = [
    "*/*/checkpoint.*",
    "*/*/weights.*",
    "*/*/scores*.npz",
    "*/*/.DONE.*",
    "*/*.lock",
    "cache/audio/*/samples.npy",
    "result/*/result.json",
]
YEAR_S = 365.25 * 24 * 3600
# Bytes of a disk that is large enough for a whole sweep.
ROOM = 3_000_000


def signals(turn: Round, attempts: int = 4, kinds: list[str] | None = None, at: str | None = None) -> None:
    """Kill and stop processes of sweeps that start with an empty output."""
    possible = kinds or [
        "SIGKILL of a parent",
        "SIGKILL at a file operation",
        "SIGKILL of everything",
        "SIGTERM",
        "SIGINT",
    ]
    possible += (
        {"one": [], "joblib": ["SIGKILL of a job"], "ranks": ["SIGKILL of a rank", "SIGSTOP of a rank"]}[turn.shape]
        if kinds is None
        else []
    )
    for _ in range(attempts):
        kind = turn.draw.choice(possible)
        role = turn.draw.choice(
            {"one": ["parent"], "joblib": ["parent", "job"], "ranks": ["parent", "rank"]}[turn.shape]
        )
        crash = f"{role}:{int(2 ** turn.draw.uniform(0, 8))}" if "operation" in kind else ""
        sweeps = turn.start(crash)
        moment = 100 if at else turn.draw.uniform(1.5, 14.0 if turn.shape == "ranks" else 9.0)
        sight = at or turn.draw.choice([*SIGHTS, *[None] * 5])
        hit = sweeps[0].end() != 0 if crash else strike(turn, kind, sweeps, moment, sight)
        codes = [sweep.end() for sweep in sweeps]
        if hit:
            turn.note(kind, f"{crash or f'after {moment:.1f} s or at {sight}'}, {turn.shape}, {turn.sweeps} at once")
        expect(turn, kind, sweeps, codes)
        turn.end_processes()
        if not any(codes):
            break
        dress(turn)
    turn.settle()


def strike(turn: Round, kind: str, sweeps: list[Sweep], moment: float, sight: str | None) -> bool:
    """Wait for a moment, or for a file to appear, and send the signal. Return whether a process was left to hit."""
    role = kind.rpartition(" ")[2] if kind.endswith(("job", "rank")) else "parent"
    while role not in processes(turn.output).values() and running(sweeps) == sweeps:
        time.sleep(0.05)
    until, old = time.monotonic() + moment, seen(turn, sight)
    while time.monotonic() < until and running(sweeps) == sweeps and seen(turn, sight) <= old:
        time.sleep(0.003)
    alive = processes(turn.output)
    targets = [process for process, its in alive.items() if its == role]
    if role == "parent":
        targets = [sweep.process.pid for sweep in running(sweeps)]
    if not targets:
        return False
    target = turn.draw.choice(sorted(targets))
    with suppress(ProcessLookupError):
        if kind == "SIGKILL of everything":
            for process in alive:
                os.kill(process, signal.SIGKILL)
        elif kind == "SIGSTOP of a rank":
            os.kill(target, signal.SIGSTOP)
            time.sleep(turn.draw.uniform(0.5, 3))
            os.kill(target, signal.SIGCONT)
        elif kind == "SIGINT" and turn.draw.random() < 0.5:
            os.killpg(target, signal.SIGINT)  # as a terminal does
        else:
            os.kill(target, {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}.get(kind, signal.SIGKILL))
    return True


def running(sweeps: list[Sweep]) -> list[Sweep]:
    """Return the sweeps that have not ended."""
    return [sweep for sweep in sweeps if sweep.process.poll() is None]


def seen(turn: Round, sight: str | None) -> set[Path]:
    """Return the files that match a pattern."""
    return set(turn.output.glob(sight)) if sight else set()


def expect(turn: Round, kind: str, sweeps: list[Sweep], codes: list[int]) -> None:
    """Require an exit code that fits the fault, and no effect on sweeps that were not hit."""
    for sweep, code in zip(sweeps, codes, strict=True):
        # joblib's processes, interrupted while they start, print stack traces before our code runs.
        loky = kind == "SIGINT" and turn.shape == "joblib"
        words = sweep.words() if loky else clear(sweep, f"after {kind} (exit code {code})")
        if code == 1 and "same command" not in words:
            raise FaultError(f"exit code 1 after {kind}, without saying what to do:\n{words}")
    allowed = {
        "SIGINT": {130},
        "SIGTERM": {-15, 143},
        "SIGKILL of a parent": {-9},
        "SIGKILL of everything": {-9},
        "SIGSTOP of a rank": set(),
    }
    hit = [code for code in codes if code != 0]
    if any(code not in allowed.get(kind, {1, -9}) for code in hit) or (
        len(hit) > 1 and kind != "SIGKILL of everything"
    ):
        raise FaultError(f"exit codes {codes} after {kind}:\n" + "\n".join(sweep.words() for sweep in sweeps))


def dress(turn: Round, chance: float = 0.3) -> None:
    """Sometimes add wrong file times, or files that a dead process left."""
    if turn.draw.random() < chance:
        clock(turn)
    if turn.draw.random() < chance:
        leftover(turn)


def clock(turn: Round) -> None:
    """Set file times far in the past or future."""
    paths = [path for path in turn.output.rglob("*") if turn.draw.random() < 0.5]
    years = turn.draw.choice([-40, -1, 1, 60])
    for path in paths:
        moment = time.time() + years * YEAR_S * turn.draw.random()
        with suppress(OSError):
            os.utime(path, (moment, moment))
    turn.note("file times", f"{len(paths)} files up to {years} years off")


def leftover(turn: Round) -> None:
    """Create files that a dying process leaves in or beside the folder of an artefact."""
    name = turn.draw.choice(sorted(turn.bench.quiet(turn.shape).artefacts))
    folder = turn.output / name
    if turn.draw.random() < 0.4:
        record = {
            "host": "elsewhere",
            "pid": 4_000_000,
            "job": None,
            "started": "2001-01-01T00:00:00+0000",
            "token": "0" * 16,
        }
        texts = {
            "flock": f'{{"kind": "flock", {str(record)[1:]}',
            "lease": str({"kind": "lease", **record, "seconds": 2.0, "beat": "000000000007"}),
            "empty": "",
            "garbage": "\x00\xff{",
        }
        which = turn.draw.choice(sorted(texts))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.with_name(f"{folder.name}.lock").write_text(texts[which].replace("'", '"').replace("None", "null"))
        turn.note("stale lock", f"{which} at {name}")
        return
    own = {
        "scores": ["loss.partial.npy", "logits.rank7.npy"],
        "result": [".result.json.77", ".comparison.png.tmp.png"],
        "split": [],
    }
    stage = name.partition("/")[0]
    which = turn.draw.choice(
        [".DONE.77", ".inputs.json.77", *own.get(stage, ["checkpoint.partial", "weights.partial"])]
    )
    if read_done(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / which).write_bytes(turn.draw.randbytes(turn.draw.choice([0, 100, 5000])))
        turn.note("stale file", f"{which} in {name}")


def damage(turn: Round, number: int = 10) -> None:
    """Damage finished artefacts and caches, and remove some artefacts so that others are read again."""
    copy_quiet(turn)
    for folder in sorted(turn.output.glob("*/*/DONE")):
        if turn.draw.random() < {"result": 0.6, "scores": 0.4, "unlearned": 0.3}.get(folder.parts[-3], 0.1):
            shutil.rmtree(folder.parent)
    files = [
        path
        for folder in sorted(turn.output.glob("*/*/DONE"))
        for path in sorted(folder.parent.rglob("*"))
        if path.is_file()
    ]
    files += sorted(turn.output.glob("cache/audio/*/*"))
    for path in turn.draw.sample(files, number if turn.shape != "ranks" else number // 2):
        artefact = turn.artefact_of(path)
        kind = "cache" if artefact.startswith("cache") else path.name
        turn.note(f"damage: {kind}", f"{spoil(path, turn.draw)} {path.relative_to(turn.output)}", artefact)
    dress(turn)
    turn.settle()


def checkpoints(turn: Round, number: int = 4) -> None:
    """Damage checkpoints of unfinished models."""
    copy_quiet(turn)
    kept = turn.bench.quiet(turn.shape).checkpoints
    for name in turn.draw.sample(sorted(kept), min(number, len(kept))):
        folder = turn.output / name
        shutil.rmtree(folder)
        shutil.copytree(turn.draw.choice(kept[name]), folder)
        turn.note("damage: checkpoint", f"{spoil(folder / 'checkpoint.ckpt', turn.draw)} {name}", name)
    dress(turn)
    turn.settle()


def copy_quiet(turn: Round) -> None:
    """Copy a finished sweep into the output."""
    shutil.copytree(turn.bench.quiet(turn.shape).output, turn.output, ignore=shutil.ignore_patterns("sweeps"))


def spoil(path: Path, draw: Random, way: str = "") -> str:
    """Flip bytes of a file, truncate it or remove it; return a description."""
    data = bytearray(path.read_bytes())
    way = (way or draw.choice(["flip", "flip", "cut", "remove"])) if data else "remove"
    if way == "remove":
        path.unlink()
        return "removed"
    if way == "cut":
        length = draw.choice([0, draw.randrange(len(data))])
        path.write_bytes(data[:length])
        return f"cut to {length} of {len(data)} bytes:"
    indices = [draw.randrange(len(data)) for _ in range(draw.randint(1, 8))]
    for index in indices:
        data[index] ^= draw.randint(1, 255)
    path.write_bytes(data)
    return f"bytes {indices} flipped of"


@contextmanager
def own_disk(turn: Round, size: int) -> Iterator[Callable[[str], bool]]:
    """Mount a file system in memory as the output; yield a function that remounts it with other options."""
    turn.output.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(turn.output)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.strip()}")
    try:
        yield (
            lambda options: (
                not subprocess.run(
                    ["mount", "-o", f"remount,{options}", str(turn.output)], capture_output=True, check=False
                ).returncode
            )
        )
    finally:
        for _ in range(100):  # an ending process may still use it
            if not subprocess.run(["umount", str(turn.output)], capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)


def full_disk(turn: Round) -> None:
    """Use a disk that is too small twice, then one that is large enough."""
    sizes = sorted(turn.draw.randrange(4096, ROOM) for _ in range(2))
    with own_disk(turn, sizes[0]) as remount:
        for size in sizes:
            assert remount(f"size={size}")
            sweeps = turn.start()
            codes = [sweep.end() for sweep in sweeps]
            turn.end_processes()
            for sweep, code in zip(sweeps, codes, strict=True):
                words = clear(sweep, f"with {size} bytes of room")
                if code and ("is full" not in words or "make room" not in words):
                    raise FaultError(f"exit code {code} on a full disk of {size} bytes, without saying so:\n{words}")
            if any(codes):
                turn.note("full disk", f"{size} bytes")
        assert remount("size=64m")
        turn.settle()


def read_only(turn: Round) -> None:
    """Make the output read-only while sweeps run, and before they start."""
    with own_disk(turn, 64 << 20) as remount:
        sweeps = turn.start()
        time.sleep(turn.draw.uniform(1, 8))
        while not remount("ro") and any(sweep.process.poll() is None for sweep in sweeps):
            time.sleep(0.001)  # the remount fails while a file is open for writing
        codes = [sweep.end() for sweep in sweeps]
        denied(turn, sweeps, codes, "read-only meanwhile")
        assert remount("ro")
        sweeps = turn.start()
        denied(turn, sweeps, [sweep.end() for sweep in sweeps], "read-only from the start")
        assert remount("rw")
        turn.settle()
        assert remount("ro")
        turn.note("read-only", "cached runs")
        for single in (True, False):
            sweep = turn.bench.start(turn.output, turn.shape, turn.corpus, single=single)
            if sweep.end():
                words = clear(sweep, "on a read-only output")
                raise FaultError(f"a cached {'run' if single else 'sweep'} on a read-only output fails:\n{words}")


def denied(turn: Round, sweeps: list[Sweep], codes: list[int], when: str) -> None:
    """Require that each sweep either writes nothing or names the folder that it cannot write."""
    turn.end_processes()
    for sweep, code in zip(sweeps, codes, strict=True):
        words = clear(sweep, when)
        if code and ("annot" not in words or str(turn.output) not in words):
            raise FaultError(f"exit code {code}, {when}, without saying so:\n{words}")
    if any(codes):
        turn.note("read-only", when)


def corpus_changes(turn: Round, steps: int = 2) -> None:
    """Change the corpus for some time, between two commands or while one runs."""
    turn.corpus = Path(shutil.copytree(turn.bench.tones, turn.output.with_name(f"{turn.output.name}-corpus")))
    shape = turn.shape
    turn.bench.quiet(shape)
    for _ in range(steps):
        variant = turn.draw.choice(["rewritten", "removed", "added"])
        other = other_corpus(turn.bench, variant)
        turn.bench.quiet(shape, other)
        if turn.draw.random() < 0.5:
            turn.note(f"corpus {variant}", "between runs")
            change_corpus(turn.corpus, variant)
            turn.settle(*turn.bench.known(shape), corpus=other)
        else:
            sweeps = turn.start()
            moment = turn.draw.uniform(0.8, 8)
            time.sleep(moment)
            change_corpus(turn.corpus, variant)
            turn.note(f"corpus {variant}", f"after {moment:.1f} s")
            for sweep in sweeps:
                code, words = sweep.end(), clear(sweep, "while the corpus changes")
                if code and "recordings" not in words and "corpus changed" not in words:
                    raise FaultError(f"exit code {code} while the corpus changes, without saying so:\n{words}")
            turn.end_processes()
            either = {name: held for quiet in turn.bench.known(shape) for name, held in quiet.artefacts.items()}
            if mixed := {name for name, held in artefacts(turn.output).items() if held != either.get(name)}:
                raise FaultError(f"of neither corpus: {mixed}")
        restore_corpus(turn)
    turn.settle(*turn.bench.known(shape))


def other_corpus(bench: Bench, variant: str) -> Path:
    """Return a changed copy of the corpus for an undisturbed sweep."""
    folder = bench.folder / f"corpus-{variant}"
    if not folder.exists():
        change_corpus(Path(shutil.copytree(bench.tones, folder)), variant)
    return folder


def change_corpus(corpus: Path, variant: str) -> None:
    """Rewrite, remove or add one fixed recording."""
    if variant == "removed":
        (corpus / "word2" / "speaker1_NO_0.wav").unlink()
        return
    target = {"rewritten": "word1/speaker2_NO_3.wav", "added": "word0/speaker0_NO_9.wav"}[variant]
    shutil.copyfile(corpus / "word2" / "speaker1_NO_3.wav", corpus / target)


def restore_corpus(turn: Round) -> None:
    """Restore the recordings, with their old times or new ones."""
    assert turn.corpus is not None
    shutil.rmtree(turn.corpus)
    shutil.copytree(turn.bench.tones, turn.corpus, copy_function=turn.draw.choice([shutil.copy, shutil.copy2]))
