"""Compare a training step and a scored batch with the bare limit and usual ways (`python scripts/bench.py train`)."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speechforget.cli.main  # noqa: F401  # isort: skip  (sets process options that must precede loading torch)

import numpy as np
import soundfile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, Dataset

from speechforget.distributed.protocol import Order
from speechforget.models.folder import build_classifier, load_classifier
from speechforget.optimizers import make_optimizer
from speechforget.stages import score as scoring
from speechforget.stages.build import build
from speechforget.stages.feature_cache import FeatureCache
from speechforget.stages.score import score
from speechforget.stages.sources import make_sources
from speechforget.stages.split import Data, split_corpus
from speechforget.store import Store
from speechforget.training import loop
from speechforget.training.device import start_process

ROOT = Path(__file__).parents[1]
RATE, CLASSES = 16000, 12
# Clips of the corpus, and overrides: chosen so that an epoch takes a few seconds.
MODELS: dict[str, tuple[int, list[str]]] = {
    "tcresnet": (3600, ["model=tcresnet"]),
    "bcresnet width 1": (2400, ["model=bcresnet", "train=bcresnet", "train.warmup=0"]),
    "bcresnet width 3": (
        1200,
        ["model=bcresnet", "model.width=3", "train=bcresnet", "train.warmup=0", "train.augment.masks=2"],
    ),
    "wav2vec2 base, random weights": (
        60,
        ["model=wav2vec2_base", "model.pretrained=null", "train.batch_size=4", "train.warmup=0"],
    ),
}
BLOCK = 40  # steps timed together, so that each finds the CPU's cache as a step of its kind left it


def make_corpus(folder: Path, clips: int) -> None:
    """Write one-second recordings: <word>/<number>.wav."""
    generator = np.random.default_rng(0)
    for number in range(clips):
        word = folder / f"word{number % CLASSES:02}"
        word.mkdir(parents=True, exist_ok=True)
        soundfile.write(word / f"{number}.wav", generator.normal(0, 0.1, RATE), RATE, subtype="PCM_16")


@dataclass
class Turns:
    """Hold the measurements of `Bench.in_turns`.

    training: seconds of `steps` training steps. bare: seconds of as many bare steps. waiting: seconds that training was
    paused.
    """

    steps: int = 0
    training: float = 0.0
    bare: float = 0.0
    waiting: float = 0.0


class Bench:
    """Measure one model on one corpus; trainer: overrides of the hardware."""

    def __init__(self, corpus: Path, output: Path, model: list[str], trainer: list[str]) -> None:
        chosen = [
            "dataset=folder",
            f"dataset.root={corpus}",
            "dataset.seconds=1.0",
            "dataset.holdout=0",
            "dataset.validation=0",
            "logger=none",
            f"output={output}",
        ]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", overrides=[*chosen, f"cache={corpus.parent / 'cache'}", *model, *trainer])
        self.config: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        self.output, self.batch_size = output, int(self.config["train"]["batch_size"])
        self.data: Data = split_corpus(self.config, Store(output))
        self.device = start_process(self.config["trainer"])

    def classifier(self) -> nn.Module:
        """Build the classifier with new weights."""
        torch.manual_seed(0)
        return build_classifier(self.config["model"], len(self.data.classes), RATE).to(self.device)

    def bare_step(self) -> Callable[[], None]:
        """Make a bare step: only forward, backward and optimiser step on one batch in memory."""
        model, trainer = self.classifier().train(), self.config["trainer"]
        optimizer = make_optimizer(model.parameters(), self.config["train"]["optimizer"], 1e-4)
        inputs = [
            torch.randn(self.batch_size, RATE, device=self.device) * 0.1,
            torch.full((self.batch_size,), RATE, device=self.device),
        ]
        labels = torch.arange(self.batch_size, device=self.device) % CLASSES
        if trainer["compile"]:
            model.compile()

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=trainer["precision"] == "bf16-mixed"):
                loss = nn.functional.cross_entropy(model(*inputs).logits, labels)
            loss.backward()
            optimizer.step()

        return step

    def bare(self, steps: int) -> float:
        """Measure bare steps, in clips per second."""
        return self.batch_size * steps / self.seconds(self.bare_step(), steps)

    def seconds(self, step: Callable[[], Any], steps: int) -> float:
        """Time `steps` steps, after two that warm up."""
        for _ in range(2):
            step()
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def in_turns(self, block: int) -> Iterator[Turns]:
        """Inside the context, run `block` bare steps after every `block` steps of `run.py`'s training.

        The first training step is not counted.
        """
        known, step, turns, done, started = loop.Bar.on_train_batch_end, self.bare_step(), Turns(), -1, 0.0

        def end(bar: loop.Bar, *arguments: Any) -> None:
            nonlocal done, started
            known(bar, *arguments)
            done += 1
            if done % block:
                return
            self.wait()
            ended = time.perf_counter()
            if done:
                turns.steps += block
                turns.training += ended - started
                turns.bare += self.seconds(step, block)
            started = time.perf_counter()
            turns.waiting += started - ended

        loop.Bar.on_train_batch_end = end  # type: ignore[method-assign]
        try:
            yield turns
        finally:
            loop.Bar.on_train_batch_end = known  # type: ignore[method-assign]

    def ours(self) -> tuple[float, float]:
        """Measure `run.py`'s training after its first step, and bare steps, in clips per second."""
        with self.in_turns(max(1, min(BLOCK, self.steps - 1))) as turns:
            self.train()
        return turns.steps * self.batch_size / turns.training, turns.steps * self.batch_size / turns.bare

    def train(self) -> None:
        """Train one epoch."""
        config = {**self.config, "train": {**self.config["train"], "epochs": 1}}
        folder = self.output / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build(Order("original", config, str(folder), "bench", "bench", self.data.key, "training"), self.data)

    @property
    def steps(self) -> int:
        """Count the steps of an epoch."""
        return -(-len(self.data.rows("train")) // self.batch_size)

    def tutorial(self, steps: int, workers: int) -> float:
        """Measure the way of most tutorials, in clips per second.

        A DataLoader's workers read each item and compute its features separately.
        """
        model = self.classifier().train()
        paths = [self.data.audio.root / path for path in self.data.table["path"]]
        frontend = self.classifier().frontend.cpu()
        loader = DataLoader(
            Items(paths, self.data.numbers, frontend),
            self.batch_size,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
        )
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4
        )
        batches = _endless(loader)

        def step() -> None:
            features, labels = (tensor.to(self.device) for tensor in next(batches))
            optimizer.zero_grad()
            lengths = torch.full((len(labels),), RATE, device=self.device)
            nn.functional.cross_entropy(model.classify(features, lengths).logits, labels).backward()  # type: ignore[operator]
            optimizer.step()

        return self.batch_size * steps / self.seconds(step, steps)

    def hugging_face(self, steps: int) -> float:
        """Measure a Trainer of transformers by its own clock, in clips per second.

        Its items go through a feature extractor one by one, as in MU-Bench.
        """
        from transformers import PrinterCallback, Trainer, TrainingArguments, Wav2Vec2FeatureExtractor

        paths = [self.data.audio.root / path for path in self.data.table["path"]]
        items = Extracted(paths, self.data.numbers, Wav2Vec2FeatureExtractor())
        options = TrainingArguments(
            str(self.output / "trainer"),
            per_device_train_batch_size=self.batch_size,
            max_steps=steps,
            learning_rate=1e-4,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=self.device.type == "cpu",
            logging_strategy="no",
        )
        trainer = Trainer(Answering(self.classifier()), options, train_dataset=items)
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().metrics["train_samples_per_second"])

    def scores(self, steps: int) -> tuple[float, float, float]:
        """Measure scoring in clips per second.

        Returns forward passes alone, `score` of a first model, and `score` of a second model with the same features.
        """
        folder = self.output / "model"
        model = load_classifier(folder)[0].to(self.device)
        inputs = [torch.randn(256, RATE, device=self.device) * 0.1, torch.full((256,), RATE, device=self.device)]
        with torch.inference_mode():
            forward = 256 * steps / self.seconds(lambda: model(*inputs), steps)
        rates = []
        scoring._features = FeatureCache()  # a first model finds no features
        for number in range(2):
            target = self.output / f"scores{number}"
            target.mkdir(exist_ok=True)
            sources = make_sources(self.config, self.data, None, self.device)
            started = time.perf_counter()
            score(target, folder, sources, self.config["trainer"], "scores", self.data.key)
            rates.append(len(self.data.table) / (time.perf_counter() - started))
        return forward, rates[0], rates[1]


class Items(Dataset[tuple[torch.Tensor, int]]):
    """Read features and label one file at a time."""

    def __init__(self, paths: list[Path], labels: np.ndarray, frontend: nn.Module) -> None:
        self.paths, self.labels, self.frontend = paths, labels, frontend

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        waveform = torch.from_numpy(soundfile.read(self.paths[number], dtype="float32")[0])[None]
        with torch.no_grad():
            features = self.frontend(waveform, torch.tensor([waveform.shape[1]]), None)
        return features[0], int(self.labels[number])


class Extracted(Dataset[dict[str, Any]]):
    """Compute a feature extractor's output for one file, with its label."""

    def __init__(self, paths: list[Path], labels: np.ndarray, extractor: Any) -> None:
        self.paths, self.labels, self.extractor = paths, labels, extractor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        waveform, rate = soundfile.read(self.paths[number])
        values = self.extractor(waveform, sampling_rate=rate, return_tensors="pt").input_values[0]
        return {"input_values": values, "labels": int(self.labels[number])}


class Answering(nn.Module):
    """Adapt a classifier to transformers' Trainer: named inputs, a loss and logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute loss and logits."""
        lengths = torch.full((len(labels),), input_values.shape[1], device=labels.device)
        logits = self.classifier(input_values, lengths).logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def train(arguments: argparse.Namespace) -> None:
    """Measure each model and print the comparison."""
    trainer = [f"trainer={arguments.trainer}", *arguments.overrides]
    for name, (clips, model) in MODELS.items():
        if arguments.models and not any(word in name for word in arguments.models):
            continue
        print(f"{name} ({', '.join(trainer)})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            make_corpus(Path(folder) / "corpus", max(60, clips // 8) if arguments.quick else clips)
            _compare(Bench(Path(folder) / "corpus", Path(folder) / "out", model, trainer), arguments)


def _compare(bench: Bench, arguments: argparse.Namespace) -> None:
    steps, few = bench.steps, max(3, min(bench.steps, 20))
    rounds = [_round(bench, steps, few) for _ in range(1 if arguments.quick else arguments.rounds)]
    median = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    ratios = {name: statistics.median(found[name] / found["bare"] for found in rounds) for name in rounds[0]}
    times = {name: statistics.median(found["ours"] / found[name] for found in rounds) for name in rounds[0]}
    forward = {name: statistics.median(found[name] / found["forward"] for found in rounds) for name in rounds[0]}
    _line("bare: forward, backward, step on one batch", median["bare"], ratios["bare"])
    _line("run.py's training", median["ours"], ratios["ours"])
    for name in (
        "a tutorial's Dataset and DataLoader, in the process",
        "the same with two workers",
        "a Trainer of transformers",
    ):
        _line(name, median[name], ratios[name], times[name])
    _line("forward passes alone", median["forward"], 1.0)
    _line("scoring a first model", median["scoring"], forward["scoring"])
    _line("scoring a second model with the same features", median["scoring again"], forward["scoring again"])


def _round(bench: Bench, steps: int, few: int) -> dict[str, float]:
    ours, bare = bench.ours()
    found = {"bare": bare, "ours": ours}
    found["a tutorial's Dataset and DataLoader, in the process"] = bench.tutorial(few, 0)
    found["the same with two workers"] = bench.tutorial(few, 2)
    found["a Trainer of transformers"] = bench.hugging_face(few)
    found["forward"], found["scoring"], found["scoring again"] = bench.scores(max(2, steps // 8))
    return found


def _line(what: str, rate: float, ratio: float, times: float | None = None) -> None:
    slower = f"    run.py is {times:.1f} times as fast" if times else ""
    print(f"  {what:52} {rate:10.1f} clips/s {ratio:6.2f}{slower}", flush=True)
