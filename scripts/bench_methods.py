"""Compare each method's time with its sample passes at bare training speed (`python scripts/bench.py methods`).

A forward pass F costs less than a forward and backward pass FB. The difference is measured on the model, not assumed. A
method should take F passes x seconds of F + FB passes x seconds of FB, both measured on one batch that is in memory.
Its ratio is its real time over this time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speechforget.cli.main  # noqa: F401  # isort: skip  (sets process options that must precede loading torch)

import torch
from bench_training import CLASSES, RATE, ROOT, Bench, make_corpus
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechforget.data.requests.select import select
from speechforget.errors import NotApplicable, UserError, nearest
from speechforget.stages.sources import make_sources
from speechforget.stages.unlearn import unlearn
from speechforget.training.loop import FitSettings

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
CLIPS = 3600
ASKED = 1.15  # the largest acceptable ratio
FORGOTTEN = 4  # classes of twelve, so that a forget pass takes measurable time


@dataclass(frozen=True)
class Bare:
    """Hold the seconds per utterance of bare passes on batches in memory.

    forward: forward alone. forward_backward: forward, backward and step.
    """

    forward: float
    forward_backward: float

    @property
    def share(self) -> float:
        """Compute the cost of F in units of FB."""
        return self.forward / self.forward_backward


@dataclass(frozen=True)
class Taken:
    """Hold one run of a method: its recorded seconds and sample passes, and the bare speed of passes."""

    seconds: float
    forward: int
    forward_backward: int
    bare: Bare

    @property
    def passes(self) -> float:
        """Count the passes in units of FB."""
        return self.forward_backward + self.forward * self.bare.share

    @property
    def ratio(self) -> float:
        """Divide the seconds by those of its passes at bare speed; nan for a method that computes nothing."""
        return self.seconds / (self.passes * self.bare.forward_backward) if self.passes else float("nan")


class MethodBench(Bench):
    """Run methods on one model and one decoded corpus.

    The model is trained for one epoch: its quality does not matter here.
    """

    def __init__(self, corpus: Path, output: Path, overrides: Sequence[str], epochs: int) -> None:
        self.epochs = epochs
        forgotten = "[" + ",".join(f"word{number:02}" for number in range(FORGOTTEN)) + "]"
        chosen = [
            "model=tcresnet",
            "train.warmup=0",
            "dataset.validation=0.1",
            "task=class",
            f"task.classes={forgotten}",
        ]
        super().__init__(corpus, output, chosen, list(overrides))
        self.train()

    def bare(self, steps: int) -> Any:
        """Measure `Bench.bare` in seconds per utterance, and forward passes alone."""
        forward_backward = 1 / super().bare(steps)
        model = self.classifier().eval()
        inputs = [
            torch.randn(self.batch_size, RATE, device=self.device) * 0.1,
            torch.full((self.batch_size,), RATE, device=self.device),
        ]
        with torch.no_grad():
            forward = self.seconds(lambda: model(*inputs), steps) / (self.batch_size * steps)
        return Bare(forward, forward_backward)

    def options_of(self, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the method's config and the task to run it on.

        Batches have the size of the bare step's, and there are few epochs.
        """
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config: Any = OmegaConf.to_container(
                compose("config", overrides=[f"method={method}", "task=class"]), resolve=True
            )
        options = dict(config["method"])
        options |= {name: self.batch_size for name in options if name.endswith("batch_size")}
        options |= {
            name: min(self.epochs, options[name])
            for name in ("epochs", "forget_epochs")
            if isinstance(options.get(name), int)
        }
        task = (
            self.config["task"]
            if "class" in options["requests"]
            else {**config["task"], "percent": 100 * FORGOTTEN // CLASSES}
        )
        return options, task

    def take_all(self, names: Sequence[str], steps: int) -> dict[str, Taken]:
        """Run all methods once; print and skip those that are not defined for this model or request."""
        found = {}
        for name in names:
            try:
                found[name] = self.take(name, steps)
            except NotApplicable as error:
                print(f"{name}: not applicable: {error}", flush=True)
        return found

    def take(self, method: str, steps: int) -> Taken:
        """Run the method once.

        Bare passes are measured before it, after it, and between its steps if it trains.
        """
        options, task = self.options_of(method)
        request = select(self.data.table, task)
        sources = make_sources(self.config, self.data, request, self.device)
        forgotten = tuple(self.data.classes.index(name) for name in request.forgotten)
        before = self.bare(steps)
        with tempfile.TemporaryDirectory(dir=self.output) as folder:
            settings = FitSettings(Path(folder), self.config["trainer"], 0, None, method)
            with self.in_turns(steps) as turns:
                unlearn(settings, self.output / "model", sources, forgotten, options)
            cost = json.loads((Path(folder) / "cost.json").read_text())
        ends = [before, self.bare(steps)]
        share = statistics.fmean(bare.share for bare in ends)
        seconds = (sum(bare.forward_backward * steps for bare in ends) + turns.bare / self.batch_size) / (
            len(ends) * steps + turns.steps
        )
        return Taken(
            cost["seconds"] - turns.waiting, cost["forward"], cost["forward_backward"], Bare(share * seconds, seconds)
        )


def methods(arguments: argparse.Namespace) -> None:
    """Print the table: each method's median over some rounds, in which the methods take turns."""
    words = arguments.methods or []
    names = [word for word in words if "=" not in word] or METHODS
    for name in names:
        if name not in METHODS:
            raise UserError(f"There is no method={name}: {nearest(name, METHODS)}")
    trainer = [f"trainer={arguments.trainer}", *arguments.overrides, *(word for word in words if "=" in word)]
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder) / "corpus", 120 if arguments.quick else CLIPS)
        bench = MethodBench(Path(folder) / "corpus", Path(folder) / "out", trainer, arguments.epochs)
        steps = 2 if arguments.quick else 20
        bench.take("finetune", steps)  # not counted: it loads modules for the others
        rounds = [bench.take_all(names, steps)]
        rounds += [
            bench.take_all(list(rounds[0]), steps) for _ in range(0 if arguments.quick else arguments.rounds - 1)
        ]
        forget = len(select(bench.data.table, bench.config["task"]).forget)
        retain = len(bench.data.rows("train")) - forget
    what = f"{forget} utterances of forget and {retain} of retain, at most {bench.epochs} epochs"
    print(f"{bench.config['model']['name']} ({', '.join(trainer)}), {what};")
    share = statistics.median(taken.bare.share for found in rounds for taken in found.values())
    print(f"a forward pass F takes {share:.2f} of a forward and backward pass with its step, FB")
    print(f"  {'method':24} {'seconds':>9} {'F':>8} {'FB':>8} {'passes in FB':>13} {'ms a pass':>10} {'ratio':>6}")
    for name in rounds[0]:
        print(line_of(name, [found[name] for found in rounds]), flush=True)


def line_of(name: str, runs: Sequence[Taken]) -> str:
    """Format a method's row; passes are the same in each run, and times are medians."""
    seconds, ratio = (statistics.median(getattr(taken, column) for taken in runs) for column in ("seconds", "ratio"))
    passes = statistics.median(taken.passes for taken in runs)
    counts = f"{runs[0].forward:8} {runs[0].forward_backward:8} {passes:13.0f}"
    if not passes:
        return f"  {name:24} {seconds:9.2f} {counts} {'-':>10} {'-':>6}"
    mark = f"  above {ASKED}" if ratio > ASKED else ""
    return f"  {name:24} {seconds:9.2f} {counts} {1000 * seconds / passes:10.3f} {ratio:6.2f}{mark}"
