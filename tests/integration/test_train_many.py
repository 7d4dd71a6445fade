"""Models that train at once get what each would get alone: weights, curve, cost, errors, and after a kill, too."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from speechforget.data.batches.augment import Augment
from speechforget.data.batches.sample_sources import Mapped, Resident
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import Diverged, UserError
from speechforget.models.tcresnet import TCResNet
from speechforget.optimizers import KINDS
from speechforget.stages import stacking, train_many
from speechforget.stages.train import train
from speechforget.stages.train_many import Job
from speechforget.training import stackable
from speechforget.training.checkpoint import TOGETHER
from speechforget.training.finite import Watch
from speechforget.training.loop import FitSettings

CONF = Path(__file__).parents[2] / "conf"
RATE, CLASSES, COUNT = 8000, 3, 30
SAMPLES = 2000
DATASET = {"sample_rate": RATE, "seconds": SAMPLES / RATE}
LABELS = ["high", "low", "middle"]
TRAINER = {"accelerator": "cpu", "devices": 1, "nodes": 1, "precision": "64-true", "compile": False, "threads": 1}
NEAR = 1e-9


@pytest.fixture(scope="module")
def sources() -> Sources:
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    pitch = 300.0 * (labels + 1)[:, None] + generator.normal(0, 20, (COUNT, 1))
    tones = np.sin(2 * np.pi * pitch * np.arange(SAMPLES) / RATE) + generator.normal(0, 0.3, (COUNT, SAMPLES))
    waveforms = Waveforms(
        Mapped((tones * 8000).astype(np.int16).ravel(), np.arange(COUNT) * SAMPLES), np.full(COUNT, SAMPLES), SAMPLES
    )
    rows = {"train": np.arange(24), "validation": np.arange(24, 30)}
    return Sources(waveforms, labels, rows, Augment(shift=0.1, noise=0.5, masks=1, mask_frequency=0.2, mask_time=0.2))


def config(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return {**OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml")), **changes}  # type: ignore[dict-item]


TCRESNET = config("model", "tcresnet", channels=[8, 8], dropout=0.2)
RECIPE = config("train", "default", epochs=2, batch_size=8, warmup=1)


def jobs(folder: Path, sources: Sources, *trained: np.ndarray, stacked: Any = 8) -> list[Job]:
    """One model for each array of training rows, with seeds 0, 1, ..."""
    found = []
    for seed, rows in enumerate(trained):
        own = Sources(sources.waveforms, sources.labels, {**sources.rows, "train": rows}, sources.augment)
        (folder / str(seed)).mkdir(parents=True, exist_ok=True)
        settings = FitSettings(folder / str(seed), {**TRAINER, "stacked": stacked}, seed, None, "test")
        found.append(Job(settings, own))
    return found


HALVES = (np.arange(0, 22), np.arange(2, 24), np.arange(1, 24))  # last batches of 6, 6 and 7


def many(asked: list[Job], model: dict[str, Any], recipe: dict[str, Any]) -> dict[int, UserError | None]:
    ended: dict[int, UserError | None] = {}
    train_many.train_many(asked, LABELS, DATASET, model, recipe, ended.__setitem__)
    return ended


def test_all_but_one_of_those_that_train_one_by_one_are_put_off(tmp_path: Path, sources: Sources) -> None:
    ended: dict[int, UserError | None] = {}
    later: list[int] = []
    for stacked, trained, put_off in ((1, {0}, [1, 2]), (8, {0, 1, 2}, [])):
        ended.clear()
        later.clear()
        asked = jobs(tmp_path / str(stacked), sources, *HALVES, stacked=stacked)
        arguments = (asked, LABELS, DATASET, TCRESNET, RECIPE, ended.__setitem__, None, later.append)
        train_many.train_many(*arguments)
        assert ended.keys() == trained and later == put_off
        assert all(
            (job.settings.folder / "weights.safetensors").exists() == (job.settings.seed in trained) for job in asked
        )


def alone(asked: list[Job], model: dict[str, Any], recipe: dict[str, Any]) -> None:
    for job in asked:
        train(job.settings, job.sources, LABELS, DATASET, model, recipe)


def check_equal(first: Path, second: Path) -> None:
    """All that a folder holds is equal, up to rounding, except for what time and place say."""
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    assert (first / "model.json").read_bytes() == (second / "model.json").read_bytes()
    one, two = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        torch.testing.assert_close(tensor, two[name], rtol=NEAR, atol=NEAR, msg=name)
    curves = [pd.read_csv(folder / "curves.csv") for folder in (first, second)]
    pd.testing.assert_frame_equal(*curves, rtol=NEAR, atol=NEAR)
    costs = [json.loads((folder / "cost.json").read_text()) for folder in (first, second)]
    assert costs[0].keys() == costs[1].keys()
    assert all(costs[0][name] == costs[1][name] for name in ("forward", "forward_backward"))


def test_every_optimizer_is_elementwise_or_refused() -> None:
    assert KINDS.keys() >= stackable.ELEMENTWISE


SMALL = {
    "tcresnet": {"channels": [8, 8], "dropout": 0.2},
    "bcresnet": {"dropout": 0.2},
    "kwt": {"depth": 1, "frames": 20, "dropout": 0.2},
    "m5": {},
    "matchboxnet": {},
}
OPTIMIZERS = {
    "sgd": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
    "adam": {"name": "adam", "amsgrad": True},
    "adamw": {"name": "adamw", "weight_decay": 0.2},
}
CASES = [("tcresnet", name) for name in sorted(KINDS)] + [("bcresnet", "sgd"), ("kwt", "adamw")]
LONG = [(name, "adamw") for name in SMALL if name not in {"tcresnet", "bcresnet", "kwt"}]


@pytest.mark.parametrize(
    ("name", "optimizer"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)]
)
def test_together_is_as_alone(name: str, optimizer: str, tmp_path: Path, sources: Sources) -> None:
    """Rows, seeds, orders, augmentation, dropout and the size of the last batch differ from model to model."""
    model = config("model", name, **SMALL[name])
    recipe = {**RECIPE, "optimizer": OPTIMIZERS[optimizer], "label_smoothing": 0.1}
    together = jobs(tmp_path / "together", sources, *HALVES)
    assert (
        stacking.reason_against(together[0].sources, train_many.Recipe(LABELS, DATASET, model, recipe), TRAINER) is None
    )
    assert many(together, model, recipe) == {0: None, 1: None, 2: None}
    separate = jobs(tmp_path / "alone", sources, *HALVES)
    alone(separate, model, recipe)
    for one, two in zip(together, separate, strict=True):
        check_equal(one.settings.folder, two.settings.folder)
    machines = [json.loads((job.settings.folder / "cost.json").read_text())["machine"] for job in together]
    assert all(machine["together"] == 3 for machine in machines)
    weights = [load_file(job.settings.folder / "weights.safetensors") for job in together]
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_steps_that_differ_make_stacks_of_their_own(tmp_path: Path, sources: Sources) -> None:
    """Sixteen rows are two steps, twenty-four are three: no model waits for another one's epoch."""
    rows = (np.arange(24), np.arange(16), np.arange(8, 24), np.arange(24))
    together, separate = jobs(tmp_path / "together", sources, *rows), jobs(tmp_path / "alone", sources, *rows)
    assert len(many(together, TCRESNET, RECIPE)) == 4
    alone(separate, TCRESNET, RECIPE)
    for one, two in zip(together, separate, strict=True):
        check_equal(one.settings.folder, two.settings.folder)
        assert json.loads((one.settings.folder / "cost.json").read_text())["machine"]["together"] == 2


@pytest.mark.parametrize(("count", "width", "parts"), [(9, 8, [4, 5]), (8, 8, [8]), (3, 2, [1, 2]), (5, 1, [1] * 5)])
def test_jobs_are_cut_into_stacks_of_about_equal_size(count: int, width: int, parts: list[int]) -> None:
    found = train_many._parts(range(count), width)
    assert [len(part) for part in found] == parts and [number for part in found for number in part] == [*range(count)]


def test_one_that_diverges_ends_alone_with_the_usual_error(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not finite; the others are as if it had never been there."""
    monkeypatch.setattr(train_many, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    build = stacking.Recipe.build

    def broken(recipe: stacking.Recipe, seed: int) -> nn.Module:
        model = build(recipe, seed)
        if seed == 1:
            model.head.weight.data.fill_(float("nan"))  # type: ignore[union-attr, operator]
        return model

    monkeypatch.setattr(stacking, "reason_against", lambda *_: None)
    monkeypatch.setattr(stacking.Recipe, "build", broken)
    together = jobs(tmp_path / "together", sources, *HALVES)
    watched = Job(replace(together[1].settings, watch=Watch("The oracle's training", "Lower it.")), together[1].sources)
    ended = many([together[0], watched, together[2]], TCRESNET, RECIPE)
    assert ended[0] is None and ended[2] is None and isinstance(ended[1], Diverged)
    assert re.match(r"The oracle's training diverged in epoch 1 of 2: train/loss is (nan|inf)\. Lower", str(ended[1]))
    assert not list(watched.settings.folder.iterdir())
    separate = jobs(tmp_path / "alone", sources, *HALVES)
    alone([separate[0], separate[2]], TCRESNET, RECIPE)
    for number in (0, 2):
        check_equal(together[number].settings.folder, separate[number].settings.folder)


def test_all_may_diverge(tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_many, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    ended = many(jobs(tmp_path, sources, *HALVES), TCRESNET, {**RECIPE, "learning_rate": 1e300, "warmup": 0})
    assert len(ended) == 3 and all(isinstance(error, Diverged) for error in ended.values())
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("weights*"))


def test_a_killed_stack_resumes_and_a_finished_model_is_not_trained_again(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_many, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    recipe = {**RECIPE, "epochs": 3}
    together = jobs(tmp_path / "together", sources, *HALVES)
    train_epoch = train_many.Together._train_epoch

    def die(self: train_many.Together, told: Any) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(self, told)

    with monkeypatch.context() as patch:
        patch.setattr(train_many.Together, "_train_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            many(together, TCRESNET, recipe)
    assert all((job.settings.folder / TOGETHER).exists() for job in together)
    begun: list[int] = []

    def count(self: train_many.Together, told: Any) -> None:
        begun.append(self.epoch)
        train_epoch(self, told)

    monkeypatch.setattr(train_many.Together, "_train_epoch", count)
    many(together[:1], TCRESNET, recipe)  # another process may build only one of them
    many(together[1:], TCRESNET, recipe)
    assert begun == [2, 2]
    separate = jobs(tmp_path / "alone", sources, *HALVES)
    alone(separate, TCRESNET, recipe)
    for one, two in zip(together, separate, strict=True):
        check_equal(one.settings.folder, two.settings.folder)


class Branching(TCResNet):
    """Data-dependent control flow, which no stack can follow."""

    def classify(self, features: torch.Tensor, lengths: torch.Tensor) -> Any:
        return super().classify(features if features.mean() < 1e9 else -features, lengths)


class Leaking(TCResNet):
    """A number that flows between models: the constant of one copy."""

    def __init__(self, classes: int, sample_rate: int, **options: Any) -> None:
        super().__init__(classes, sample_rate, **options)
        self.scale = float(torch.rand(()))

    def classify(self, features: torch.Tensor, lengths: torch.Tensor) -> Any:
        return super().classify(features * self.scale, lengths)


@pytest.mark.parametrize(
    ("model", "recipe", "trainer", "reason"),
    [
        ({"_target_": "test_train_many.Branching"}, {}, {}, "data-dependent control flow"),
        ({"_target_": "test_train_many.Leaking"}, {}, {}, "differs by .* from a model that trained alone"),
        ({"pretrained": "a/b"}, {}, {}, "pretrained weights"),
        ({}, {}, {"compile": True}, "trainer.compile=true"),
        ({}, {}, {"precision": "16-mixed"}, "scales the loss"),
    ],
)
def test_what_cannot_be_stacked_trains_one_by_one_with_one_line(
    model: dict[str, Any],
    recipe: dict[str, Any],
    trainer: dict[str, Any],
    reason: str,
    sources: Sources,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shared = stacking.Recipe(LABELS, DATASET, {**TCRESNET, **model}, {**RECIPE, **recipe})
    chosen = stacking.choose([sources] * 3, shared, {**TRAINER, "stacked": 3, **trainer}, torch.device("cpu"), None)
    assert chosen.width == 1
    assert len(caplog.records) == 1 and re.search(f"3 models train one by one: .*{reason}", caplog.text)


def test_bucketed_lengths_and_unknown_optimizers_are_refused(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stacking.Recipe(LABELS, DATASET, TCRESNET, RECIPE).build(0)
    assert "different lengths" in str(stackable.why_not(model, RECIPE, TRAINER, bucketed=True))
    monkeypatch.setitem(KINDS, "lbfgs", torch.optim.LBFGS)
    recipe = {**RECIPE, "optimizer": {"name": "lbfgs"}}
    assert "not elementwise" in str(stackable.why_not(model, recipe, TRAINER, bucketed=False))
    assert stackable.why_not(model, RECIPE, TRAINER, bucketed=False) is None


def test_auto_measures_once_and_takes_the_fastest_way(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = stacking.Recipe(LABELS, DATASET, TCRESNET, RECIPE)
    cpu, calls = torch.device("cpu"), []
    seconds = {"alone": 1.0, "grouped": 3.0, "products": 2.0}

    def measured(*_: Any) -> dict[str, float]:
        calls.append(1)
        return seconds

    monkeypatch.setattr(stacking, "measured", measured)

    def choose(stacked: Any, folder: str) -> stacking.Choice:
        trainer = {**TRAINER, "stacked": stacked}
        return stacking.choose([sources] * 10, shared, trainer, cpu, tmp_path / folder)

    assert choose("auto", "a") == stacking.Choice(1)
    assert choose(8, "a") == stacking.Choice(8, products=True)
    assert choose(1, "a") == stacking.Choice(1)
    assert len(calls) == 1
    assert choose(4, "a") == stacking.Choice(4, products=True)
    seconds["grouped"] = 0.5
    assert choose("auto", "b") == stacking.Choice(8, products=False)
    assert len(calls) == 3


def test_every_way_is_measured(sources: Sources) -> None:
    shared = stacking.Recipe(LABELS, DATASET, TCRESNET, RECIPE)
    found = stacking.measured([sources] * 2, shared, "32-true", torch.device("cpu"))
    assert found.keys() == {"alone", "grouped", "products"} and all(0 < value < 60 for value in found.values())


def test_products_are_as_convolutions(tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"grouped": 1.0, "products": 2.0, "alone": 3.0}
    monkeypatch.setattr(stacking, "measured", lambda *_: ways)
    first = jobs(tmp_path / "first", sources, *HALVES)
    many(first, TCRESNET, RECIPE)
    ways["products"] = 0.5
    second = jobs(tmp_path / "second", sources, *HALVES)
    many(second, TCRESNET, RECIPE)
    for one, two in zip(first, second, strict=True):
        check_equal(one.settings.folder, two.settings.folder)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(asked: list[Job], sources: Sources, **changes: Any) -> list[Job]:
    """The same jobs on a GPU, with recordings in its memory."""
    resident = Resident(sources.waveforms.recordings.flat, np.arange(COUNT) * SAMPLES, torch.device("cuda", 0))
    waveforms = Waveforms(resident, np.full(COUNT, SAMPLES), SAMPLES)
    moved = []
    for job in asked:
        own = Sources(waveforms, sources.labels, job.sources.rows, sources.augment.with_noise(None, resident.device))
        trainer = {**job.settings.trainer, "accelerator": "gpu", **changes}
        moved.append(Job(replace(job.settings, trainer=trainer), own))
    return moved


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", ["tcresnet", "bcresnet", "kwt"])
def test_together_is_as_alone_on_a_gpu(
    name: str, tmp_path: Path, sources: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    """Long enough for CUDA graphs."""
    caplog.set_level(logging.INFO)
    model, recipe = config("model", name, **SMALL[name]), {**RECIPE, "epochs": 4}
    together = on_gpu(jobs(tmp_path / "together", sources, *HALVES), sources)
    assert many(together, model, recipe) == {0: None, 1: None, 2: None}
    assert "without CUDA graphs" not in caplog.text
    separate = on_gpu(jobs(tmp_path / "alone", sources, *HALVES), sources)
    alone(separate, model, recipe)
    for one, two in zip(together, separate, strict=True):
        check_equal(one.settings.folder, two.settings.folder)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("precision", ["32-true", "tf32-true", "bf16-mixed"])
def test_a_gpu_trains_together_in_every_precision(precision: str, tmp_path: Path, sources: Sources) -> None:
    together = on_gpu(jobs(tmp_path / "together", sources, *HALVES), sources, precision=precision)
    assert many(together, TCRESNET, RECIPE) == {0: None, 1: None, 2: None}
    separate = on_gpu(jobs(tmp_path / "alone", sources, *HALVES), sources, precision=precision)
    alone(separate, TCRESNET, RECIPE)
    for one, two in zip(together, separate, strict=True):
        losses = [pd.read_csv(job.settings.folder / "curves.csv")["train/loss"] for job in (one, two)]
        np.testing.assert_allclose(*losses, rtol=0.02)


@pytest.mark.gpu
@GPU
def test_a_gpu_gathers_the_same_batches(sources: Sources) -> None:
    here = Job(FitSettings(Path(), TRAINER, 0, None, ""), sources)
    (there,) = on_gpu([here], sources)
    streams = [job.sources.shuffled(sources.rows["train"], 8, (0, "train", 0)) for job in (here, there)]
    for one, two in zip(*streams, strict=True):
        assert torch.equal(one.rows, two.rows.cpu())
        torch.testing.assert_close(one.inputs[0], two.inputs[0].cpu(), rtol=1e-5, atol=1e-6)
