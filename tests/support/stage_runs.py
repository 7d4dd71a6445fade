"""Training and unlearning of a small model on synthetic tones, stage by stage, without a pipeline."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechforget.data.batches.streams import Sources
from speechforget.stages.train import train
from speechforget.stages.unlearn import unlearn
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
    unlearn(job(folder), original, sources, forgotten(method), method)
    return folder


def forgotten(method: dict[str, Any]) -> tuple[int, ...]:
    """Classes that are removed whole, for methods that only know such requests."""
    return () if "sample" in method["requests"] else (1,)
