"""Training and unlearning of a small model on synthetic tones, stage by stage, without a pipeline."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from speechforget.data.batches.streams import Sources
from speechforget.data.requests.attribute import Attribute
from speechforget.stages.train import train
from speechforget.stages.unlearn import unlearn
from speechforget.training.checkpoint import Resumable
from speechforget.training.loop import FitSettings

CONF = Path(__file__).parents[2] / "conf"


RATE, CLASSES, EACH = 8000, 3, 16


DATASET = {"sample_rate": RATE, "seconds": 0.5}


TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "compile": False, "threads": 1}


LABELS = ["high", "low", "middle"]


def config(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return {**OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml")), **changes}  # type: ignore[dict-item]


MODEL = config("model", "tcresnet", channels=[8, 8], dropout=0.2)


RECIPE = config("train", "default", epochs=3, batch_size=8, warmup=1)


def job(folder: Path, seed: int = 0) -> FitSettings:
    folder.mkdir(parents=True, exist_ok=True)
    return FitSettings(folder, TRAINER, seed, None, "test")


def trained(folder: Path, sources: Sources, seed: int = 0) -> Path:
    train(job(folder, seed), sources, LABELS, DATASET, MODEL, RECIPE)
    return folder


def unlearned(folder: Path, original: Path, sources: Sources, method: dict[str, Any]) -> Path:
    unlearn(job(folder), original, sources, forgotten(method), method, attribute=attribute(method))
    return folder


def attribute(method: dict[str, Any]) -> Attribute | None:
    """An attribute that every class has both values of, for methods that remove one."""
    values = np.where(np.arange(CLASSES * EACH) // CLASSES % 3 == 0, "low", "high")
    return Attribute("voice", values) if "attribute" in method["requests"] and method["name"] != "none" else None


def forgotten(method: dict[str, Any]) -> tuple[int, ...]:
    """Classes that are removed whole, for methods that only know such requests."""
    return () if {"sample", "attribute"} & set(method["requests"]) else (1,)


def same_weights(first: Path, second: Path) -> bool:
    return (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()


def die_after(epoch: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> None:
    """Does the work until the checkpoint of an epoch is written, then fails as a killed process would."""
    save, interruption = Resumable.on_train_epoch_end, signal.getsignal(signal.SIGINT)

    def save_then_die(self: Resumable, trainer: Any, module: Any) -> None:
        save(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Resumable, "on_train_epoch_end", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert signal.getsignal(signal.SIGINT) is interruption  # Ctrl-C is heard again
