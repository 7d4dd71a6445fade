"""Inject random faults into small sweeps and check what must hold afterwards (docs/faults.md).

A `Round` works in one output folder. It injects faults; then `settle` repeats the command without faults until the
numbers equal those of an undisturbed sweep. Meanwhile an error may name a damaged folder, which is then removed as the
error asks. The seed of a round determines everything. test_faults.py defines the faults. A broken promise raises
`FaultError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from speechforget.cli.store import main as store
from speechforget.store import read_done

ROOT = Path(__file__).parents[2]
# A command that takes longer hangs.
PATIENCE_S = 240.0
# Time for processes to end after the command that started them.
LEAVE_S = 20.0
# Set in the environment of every process that a round starts.
MARK = "SPEECHFORGET_FAULTS_OUTPUT"
# "<role>:<n>": a process of this role kills itself before its n-th operation on a file of the output.
CRASH = "SPEECHFORGET_FAULTS_CRASH"
# Words of the command line that identify a role; every other process is a parent.
ROLES = {
    "rank": "speechforget.distributed.worker",
    "job": "popen_loky",
    "helper": "resource_tracker",
}
SHAPES = {"one": [], "joblib": ["launch=joblib"], "ranks": ["trainer.devices=2"]}
HOOK = """
import os, signal, sys
output, (role, number) = os.environ["{MARK}"], os.environ["{CRASH}"].split(":")
words = " ".join(sys.orig_argv)
mine = next((name for name, word in {ROLES}.items() if word in words), "parent")
left = [int(number)]
def hook(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(arguments[0]).startswith(output):
        if event != "open" or (arguments[1] or "r")[0] != "r" or arguments[2] & 3:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
if mine == role:
    sys.addaudithook(hook)
"""


class FaultError(AssertionError):
    """Signal that a fault had a forbidden effect."""


@dataclass
class Injected:
    """Record a fault.

    artefact: what it damaged, if anything.
    outcome: quiet (the numbers are right again), error (an error of the command named the artefact first), verify
        (`store verify` named it first) or failed.
    """

    kind: str
    detail: str
    artefact: str | None = None
    outcome: str = "quiet"


@dataclass
class Sweep:
    """Hold a started command and the path of its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for the exit code. Raises FaultError if the command hangs."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise FaultError(f"the command hangs (more than {patience_s:.0f} s):\n{self.words()}") from None

    def words(self, kind: str = "err") -> str:
        """Return what the command printed."""
        return self.log.with_suffix(f".{kind}").read_text(errors="replace")


@dataclass
class Quiet:
    """Hold an undisturbed sweep: its artefacts, and every checkpoint written on the way, by artefact."""

    output: Path
    artefacts: dict[str, Any]
    checkpoints: dict[str, list[Path]]


def restore_interrupt() -> None:
    """Handle SIGINT by default: a pytest in the background ignores it, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes(output: Path) -> dict[int, str]:
    """Return the living processes that a round started on `output`, with their roles."""
    found: dict[int, str] = {}
    mark = f"{MARK}={output}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                found[int(folder.name)] = next((role for role, word in ROLES.items() if word in words), "parent")
    return found


def artefacts(output: Path) -> dict[str, Any]:
    """Return the content of finished artefacts: file names, hash of weights, results without wall times."""
    found: dict[str, Any] = {}
    for done in output.glob("*/*/DONE"):
        folder, record = done.parent, read_done(done.parent)
        if record is not None:
            held: dict[str, Any] = {"files": sorted(record["files"])}
            if (weights := folder / "weights.safetensors").exists():
                held["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
            if (result := folder / "result.json").exists():
                comparison = json.loads(result.read_bytes())["comparison"]
                held["figures"] = {
                    model: {name: entry for name, entry in each.items() if name != "seconds"}
                    for model, each in comparison.items()
                }
            found[folder.relative_to(output).as_posix()] = held
    return found


class Bench:
    """Hold what rounds share: the corpus, undisturbed sweeps to compare with, and the injected faults."""

    def __init__(self, folder: Path, small: Iterable[str], tones: Path, sweep: Iterable[str]) -> None:
        self.folder, self.tones, self.sweep = folder, tones, [*sweep]
        self.small = [override for override in small if not override.startswith("dataset.root=")]
        self.injected: list[Injected] = []
        self.rounds: list[str] = []
        self._quiet: dict[tuple[str, str], Quiet] = {}
        self._started = 0
        (folder / "hook").mkdir(parents=True)
        (folder / "logs").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK.format(MARK=MARK, CRASH=CRASH, ROLES=ROLES))

    def start(
        self, output: Path, shape: str, corpus: Path | None = None, crash: str = "", single: bool = False
    ) -> Sweep:
        """Start the sweep as a user does. single: start only its first job, without -m."""
        self._started += 1
        log = self.folder / "logs" / str(self._started)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(output), "WANDB_MODE": "offline"}
        if crash:
            environment |= {CRASH: crash, "PYTHONPATH": str(self.folder / "hook")}
        asked = [word.partition(",")[0] for word in self.sweep] if single else ["-m", *self.sweep]
        line = [
            sys.executable,
            str(ROOT / "run.py"),
            *asked,
            *self.small,
            *SHAPES[shape],
            f"dataset.root={corpus or self.tones}",
            f"output={output}",
        ]
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                line,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=restore_interrupt,  # noqa: PLW1509
            )
        return Sweep(process, log)

    def quiet(self, shape: str, corpus: Path | None = None) -> Quiet:
        """Return the undisturbed sweep of a shape over a corpus. joblib gives the numbers of one process."""
        name = ("ranks" if shape == "ranks" else "one", corpus.name if corpus else "same")
        if name not in self._quiet:
            output, kept = self.folder / f"quiet-{name[0]}-{name[1]}", self.folder / f"checkpoints-{name[0]}-{name[1]}"
            sweep = self.start(output, name[0], corpus)
            found: dict[str, list[Path]] = {}
            while sweep.process.poll() is None:
                for path in output.glob("*/*/checkpoint.ckpt"):
                    with contextlib.suppress(OSError):  # the checkpoint was replaced or removed meanwhile
                        if not (version := kept / f"{path.parent.name}-{path.stat().st_ino}").exists():
                            version.mkdir(parents=True)
                            # A second name keeps this version: checkpoints are replaced, never written to.
                            os.link(path, version / path.name)
                            for beside in path.parent.glob("checkpoint.sha256"):
                                shutil.copy(beside, version)
                            found.setdefault(path.parent.relative_to(output).as_posix(), []).append(version)
                time.sleep(0.005)
            if sweep.end() != 0:
                raise FaultError(f"the quiet sweep failed:\n{sweep.words()}")
            self._quiet[name] = Quiet(output, artefacts(output), found)
        return self._quiet[name]

    def known(self, shape: str) -> list[Quiet]:
        """Return all undisturbed sweeps of a shape so far, over any corpus."""
        return [quiet for name, quiet in self._quiet.items() if (name[0] == "ranks") == (shape == "ranks")]


class Round:
    """Inject faults into one output folder. sweeps: how many run at the same time."""

    def __init__(self, bench: Bench, seed: int, shape: str, sweeps: int = 1) -> None:
        self.bench, self.seed, self.shape, self.sweeps = bench, seed, shape, sweeps
        self.draw = Random(seed)
        self.output = bench.folder / f"round-{seed}"
        self.corpus: Path | None = None
        self.injected: list[Injected] = []
        self.told: list[str] = []

    def note(self, kind: str, detail: str, artefact: str | None = None) -> None:
        """Record a fault."""
        self.injected.append(Injected(kind, detail, artefact))
        self.told.append(f"{kind}: {detail}")

    def start(self, crash: str = "") -> list[Sweep]:
        """Start the sweeps; the first one may crash."""
        return [
            self.bench.start(self.output, self.shape, self.corpus, crash if not number else "")
            for number in range(self.sweeps)
        ]

    def damaged(self) -> set[str]:
        """Return the artefacts that this round damaged and that still exist."""
        return {each.artefact for each in self.injected if each.artefact and (self.output / each.artefact).exists()}

    def settle(self, *others: Quiet, corpus: Path | None = None) -> None:
        """Repeat the command until it gives the numbers of the undisturbed sweep.

        Only folders that an error names as damaged are removed.
        others: more undisturbed sweeps, of which artefacts may exist. corpus: the corpus that the recordings equal now,
            if it is not the one of the bench.
        """
        for _ in range(2 + 2 * len(self.damaged())):
            sweeps = self.start()
            codes = [sweep.end() for sweep in sweeps]
            self.end_processes()
            if codes == [0] * len(codes):
                break
            for sweep in sweeps:
                self.remove_named(sweep, codes)
        else:
            raise FaultError("repeating the command does not repair it")
        self.verify()
        self.compare(self.bench.quiet(self.shape, corpus), *others)

    def remove_named(self, sweep: Sweep, codes: list[int]) -> None:
        """Remove the folders that the errors of a sweep name. Raises FaultError if they name no damaged folder."""
        words = clear(sweep, "after the faults")
        asked = "\n".join(line for line in words.splitlines() if "emove" in line)
        named = {
            self.artefact_of(Path(path)) for path in re.findall(rf"{re.escape(str(self.output))}/[^\s:;,()']+", asked)
        }
        known = {each.artefact for each in self.injected}
        if sweep.process.returncode and not named & known:
            raise FaultError(
                f"exit codes {codes}, and no error that names a damaged folder and says to remove it, but:\n{words}"
            )
        for each in self.injected:
            if each.artefact in named and (self.output / each.artefact).exists():
                each.outcome = "error"
        for artefact in named & known:
            shutil.rmtree(self.output / str(artefact), ignore_errors=True)

    def artefact_of(self, path: Path) -> str:
        """Return the artefact or cache of a file, relative to the output."""
        parts = path.relative_to(self.output).parts
        return "/".join(parts[: 3 if parts[0] == "cache" else 2])

    def verify(self) -> None:
        """Require `store verify` to name all damage that the command did not need; remove it and repeat the command."""
        words = io.StringIO()
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            code = store(["verify", "--output", str(self.output)])
        quiet = self.bench.quiet(self.shape)
        wrong = {
            name
            for name in self.damaged()
            if name in quiet.artefacts and not same_bytes(self.output / name, quiet.output / name)
        }
        missed = {name for name in wrong if name not in words.getvalue() and Path(name).name not in words.getvalue()}
        if missed or bool(wrong) != bool(code):
            raise FaultError(f"`store verify` gives {code} and does not name {missed} of {wrong}:\n{words.getvalue()}")
        for name in wrong:
            shutil.rmtree(self.output / name)
            for each in self.injected:
                each.outcome = "verify" if each.artefact == name else each.outcome
        if wrong and (code := (sweep := self.bench.start(self.output, self.shape, self.corpus)).end()):
            raise FaultError(f"exit code {code} after removing what `store verify` named:\n{sweep.words()}")

    def compare(self, quiet: Quiet, *others: Quiet) -> None:
        """Raise FaultError unless the output equals that of the undisturbed sweep, to the bit.

        Beyond it, only artefacts of `others` may exist.
        """
        wanted, found = quiet.artefacts, artefacts(self.output)
        allowed = {name: held for other in others for name, held in other.artefacts.items()} | wanted
        wrong = [name for name in wanted if name not in found] + [
            name for name in found if found[name] != allowed.get(name)
        ]
        if wrong:
            raise FaultError(
                "\n".join(
                    [
                        "differs from the undisturbed sweep:",
                        *(f"{name}: {found.get(name)} for {allowed.get(name)}" for name in wrong),
                    ]
                )
            )

    def end_processes(self, patience_s: float = LEAVE_S) -> None:
        """End processes that outlive their command. Raises FaultError if there are any."""
        until = time.monotonic() + patience_s
        while (alive := processes(self.output)) and time.monotonic() < until:
            time.sleep(0.05)
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if alive:
            raise FaultError(f"processes are left: {alive}")


def same_bytes(mine: Path, theirs: Path) -> bool:
    """Return whether the files of an artefact match its record, and the record lists the same files as the other."""
    record, other = read_done(mine), read_done(theirs)
    if record is None or other is None or record["files"].keys() != other["files"].keys():
        return False
    try:
        return all(
            hashlib.sha256((mine / name).read_bytes()).hexdigest() == held.get("sha256")
            for name, held in record["files"].items()
        )
    except OSError:
        return False


def clear(sweep: Sweep, when: str) -> str:
    """Return the errors of a sweep. Raises FaultError if there is a stack trace, or a failure without a sentence."""
    words = sweep.words()
    if "Traceback" in words + sweep.words("out"):
        raise FaultError(f"a stack trace {when}:\n{(sweep.words('out') + words)[-6000:]}")
    return words
