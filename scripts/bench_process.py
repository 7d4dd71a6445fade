"""Measure a process's memory and start-up time (`python scripts/bench.py memory` and `startup`)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import speechforget.cli.main  # noqa: F401  # isort: skip  (sets process options that must precede loading torch)

import numpy as np
import soundfile
from bench_training import CLASSES, RATE, ROOT, Bench

from speechforget.data.requests.select import select
from speechforget.stages.score import score
from speechforget.stages.sources import make_sources
from speechforget.training import loop


def anonymous_megabytes() -> float:
    """Measure this process's anonymous memory; mapped pages of recordings and scores do not count."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return float(line.split()[1]) / 1024
    return float("nan")


@contextmanager
def watching() -> Iterator[list[float]]:
    """Record the peak of anonymous memory inside the context, sampled every tenth of a second."""
    peak, ended = [anonymous_megabytes()], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], anonymous_megabytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def memory(arguments: argparse.Namespace) -> None:
    """Print the anonymous memory of training and scoring on 100,000 one-second utterances.

    They are cut out of long recordings.
    """
    count = 2000 if arguments.quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        generator = np.random.default_rng(0)
        lines = ["path,start,seconds,word"]
        for number in range(count // 1000):
            soundfile.write(
                corpus / f"{number}.wav", generator.integers(-3000, 3000, 1000 * RATE).astype(np.int16), RATE
            )
            lines += [f"{number}.wav,{start},1,word{start % CLASSES}" for start in range(1000)]
        (corpus / "manifest.csv").write_text("\n".join(lines) + "\n")
        report = json.loads(_inner("memory-of", str(corpus), folder, *arguments.overrides))
    print(f"{count} utterances: " + ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in report.items()))


def memory_of(corpus: Path, output: Path, overrides: list[str]) -> dict[str, float]:
    """Measure peaks of anonymous memory in megabytes.

    They are of a process with everything loaded, of the split, of an epoch of training, and of scoring.
    """
    import lightning.pytorch  # noqa: F401

    report = {"loaded": anonymous_megabytes()}
    with watching() as peak:
        bench = Bench(corpus, output / "out", ["model=tcresnet", "model.channels=[8,8]"], ["trainer=cpu", *overrides])
        select(bench.data.table, bench.config["task"])
    report["decoding, split and request"] = peak[0]
    with watching() as peak:
        bench.train()
    report["training"] = peak[0]
    target = output / "scores"
    target.mkdir()
    with watching() as peak:
        score(
            target,
            bench.output / "model",
            make_sources(bench.config, bench.data, None),
            bench.config["trainer"],
            "scores",
            bench.data.key,
        )
    report["scoring"] = peak[0]
    return report


def startup(arguments: argparse.Namespace) -> None:
    """Print the seconds from the command to the end of its first training step, with a decoded corpus."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["logger=none", f"output={folder}/first", f"cache={folder}/cache", *arguments.overrides]
        subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words, "only=original", "train.epochs=1", "train.warmup=0"],
            check=True,
            capture_output=True,
        )
        found = []
        for number in range(3):
            words[1] = f"output={folder}/next{number}"
            found.append(float(_inner("startup-of", str(time.time()), *words)))
    each = ", ".join(f"{seconds:.1f}" for seconds in found)
    print(f"From the command to the end of the first training step: {min(found):.1f} s ({each})")


def startup_of(started: float, words: list[str]) -> None:
    """Run the command until its first step ends, and print how long that took."""
    import runpy

    sys.argv = [str(ROOT / "run.py"), *words]

    def ended(*_: Any) -> None:
        print(time.time() - started, flush=True)
        os._exit(0)

    loop.Bar.on_train_batch_end = ended  # type: ignore[method-assign]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


def _inner(*words: str) -> str:
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return run.stdout.splitlines()[-1]


def main(words: list[str]) -> None:
    """Run a part that needs a process of its own."""
    if words[0] == "memory-of":
        print(json.dumps(memory_of(Path(words[1]), Path(words[2]), words[3:])))
    else:
        startup_of(float(words[1]), words[2:])


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {"memory": memory, "startup": startup}

if __name__ == "__main__":
    main(sys.argv[1:])
