"""Models that train at once get what each would get alone: weights, curve, cost, errors, and after a kill, too."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from speechforget.data.batches.augment import Augment
from speechforget.data.batches.sample_sources import Mapped, Resident
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import UserError
from speechforget.optimizers import KINDS
from speechforget.stages import stacking, train_many
from speechforget.stages.train import train
from speechforget.stages.train_many import Job
from speechforget.training import stackable
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
    "res15": {},
    "x_vector": {},
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
    """Long enough for CUDA graphs; a model alone is also the one that a CPU trains."""
    caplog.set_level(logging.INFO)
    model, recipe = config("model", name, **SMALL[name]), {**RECIPE, "epochs": 4}
    together = on_gpu(jobs(tmp_path / "together", sources, *HALVES), sources)
    assert many(together, model, recipe) == {0: None, 1: None, 2: None}
    assert "without CUDA graphs" not in caplog.text
    separate = on_gpu(jobs(tmp_path / "alone", sources, *HALVES), sources)
    alone(separate, model, recipe)
    for one, two in zip(together, separate, strict=True):
        check_equal(one.settings.folder, two.settings.folder)
    on_cpu = jobs(tmp_path / "cpu", sources, HALVES[0])
    alone(on_cpu, model, recipe)
    check_equal(on_cpu[0].settings.folder, separate[0].settings.folder)


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
