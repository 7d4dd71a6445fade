"""Compare several models trained at once with the same models one by one (`python scripts/bench.py stacked`)."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speechforget.cli.main  # noqa: F401  # isort: skip  (sets process options that must precede loading torch)

from bench_training import Bench, make_corpus

from speechforget.seeding import order
from speechforget.stages.sources import make_sources
from speechforget.stages.stacking import FILE
from speechforget.stages.train import steps_of
from speechforget.stages.train_many import Job, train_many
from speechforget.training.loop import FitSettings

CLIPS, EPOCHS = 1200, 4
SHARE = 0.75  # of the recordings, drawn anew for each model


def stacked(arguments: argparse.Namespace) -> None:
    """Measure rounds of both ways in turns and print the ratios."""
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    clips, epochs, rounds = (120, 1, 1) if arguments.quick else (CLIPS, EPOCHS, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder) / "corpus", clips)
        trainer = [f"trainer={arguments.trainer}", *arguments.overrides]
        bench = Bench(
            Path(folder) / "corpus", Path(folder) / "out", [f"train.epochs={epochs}", "train.warmup=0"], trainer
        )
        measure = Measured(bench, arguments.together)
        measure.seconds(1, 1), measure.seconds(arguments.together, arguments.together)  # load libraries, choose a way
        found = [
            (measure.seconds(arguments.together, 1), measure.seconds(arguments.together, arguments.together))
            for _ in range(rounds)
        ]
        ways = json.loads((bench.output / FILE).read_text())
    alone, together = (statistics.median(seconds) for seconds in zip(*found, strict=True))
    ratios = [first / second for first, second in found]
    count = arguments.together
    print(f"{bench.config['model']['name']} on {bench.device.type}: {count} models, {measure.steps} steps each")
    print(f"  one by one {alone:8.2f} s, {1000 * alone / count / measure.steps:8.2f} ms for a step of one model")
    print(f"  at once    {together:8.2f} s, {1000 * together / count / measure.steps:8.2f} ms for a step of one model")
    for known in ways.values():
        each = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in known["seconds"].items())
        print(f"  a bare step of {known['models']} models: {each}{known['reason'] or ''}")
    each = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(f"  at once is {statistics.median(ratios):.2f} times as fast ({each})", flush=True)


class Measured:
    """Train `together` models on subsets of a corpus. steps: of each model."""

    def __init__(self, bench: Bench, together: int) -> None:
        self.bench, self.together = bench, together
        sources = make_sources(bench.config, bench.data, None, bench.device)
        rows = sources.rows["train"]
        kept = round(SHARE * len(rows))
        self.sources = [sources.with_rows(train=order(rows, seed, "kept")[:kept]) for seed in range(together)]
        self.steps = steps_of(self.sources[0], bench.config["train"]) * int(bench.config["train"]["epochs"])

    def seconds(self, models: int, width: int) -> float:
        """Time the training of some models, `width` at once."""
        config: dict[str, Any] = self.bench.config
        trainer = {**config["trainer"], "stacked": width}
        failed: list[object] = []
        with tempfile.TemporaryDirectory() as folder:
            jobs = self._jobs(Path(folder), trainer, models)
            self.bench.wait()
            started = time.perf_counter()
            train_many(
                jobs,
                self.bench.data.classes,
                config["dataset"],
                config["model"],
                config["train"],
                lambda _, error: failed.append(error) if error else None,
                self.bench.output,
            )
            self.bench.wait()
            seconds = time.perf_counter() - started
        if failed:
            raise RuntimeError(str(failed[0]))
        return seconds

    def _jobs(self, folder: Path, trainer: dict[str, Any], models: int) -> Sequence[Job]:
        jobs = []
        for seed, sources in enumerate(self.sources[:models]):
            (folder / str(seed)).mkdir()
            jobs.append(Job(FitSettings(folder / str(seed), trainer, seed, None, "bench"), sources))
        return jobs
