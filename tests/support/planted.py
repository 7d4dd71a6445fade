"""Subjects of attacks whose knowledge is planted: the waveform of an utterance is its features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechforget.attacks.base import Subject
from speechforget.batch import Batch
from speechforget.config.instantiate import instantiate_target
from speechforget.models.classifier import Classifier, Output

ROOT = Path(__file__).parents[2]
FULL = ROOT / "conf" / "evaluation" / "full.yaml"


def listed() -> dict[str, dict[str, Any]]:
    """Return the attacks of the yaml: name of the module -> options."""
    found: Any = OmegaConf.to_container(OmegaConf.load(FULL).attacks)
    return {options["_target_"].split(".")[-2]: options for options in found}


FEWER = {"folds": 2, "draws": 1, "steps": 2, "shots": [1], "head_shots": 1, "bits": [8], "pruning": [0.5], "most": 40}


def with_fewer(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose attacks have smaller numbers."""
    attacks = [
        {name: FEWER.get(name, value) for name, value in options.items()} for options in config["evaluation"]["attacks"]
    ]
    return {**config, "evaluation": {**config["evaluation"], "attacks": attacks}}


def build(name: str, **changes: Any) -> Any:
    """Build the yaml's attack with some other numbers."""
    return instantiate_target({**listed()[name], **changes}, "evaluation.attacks")


class Silent(nn.Module):
    """A frontend that changes nothing."""

    def forward(self, waveform: Tensor, lengths: Tensor, spans: Tensor | None = None) -> Tensor:
        return waveform


class Planted(Classifier):
    """A linear encoder, batch normalisation if asked, and a head."""

    def __init__(self, width: int, classes: int, norm: bool = False, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.frontend = Silent()
            self.encoder = nn.Linear(width, width, bias=False)
            nn.init.eye_(self.encoder.weight)
            self.norm: nn.Module = nn.BatchNorm1d(width) if norm else nn.Identity()
            self.head = nn.Linear(width, classes)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        embedding = self.norm(self.encoder(features))
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        return [self.encoder, self.head]


def subject_of(
    features: np.ndarray,
    labels: np.ndarray,
    role: np.ndarray,
    classifier: nn.Module | None = None,
    *,
    speakers: np.ndarray | None = None,
    forgotten: tuple[int, ...] = (),
    label: str = "word",
    units: np.ndarray | None = None,
    nonmembers: np.ndarray | None = None,
    seed: int = 0,
) -> Subject:
    """Return a subject; role: of every utterance. nonmembers: rows, by default all of holdout."""
    waveform = torch.from_numpy(np.asarray(features, dtype=np.float32))
    classes = int(labels.max()) + 1

    def stream(rows: np.ndarray, size: int) -> Iterator[Batch]:
        for part in torch.from_numpy(rows).split(size):
            yield Batch(
                (waveform[part].clone(), torch.full((len(part),), waveform.shape[1])),
                torch.from_numpy(labels)[part],
                part,
                torch.from_numpy(role == "forget")[part],
            )

    rows = {name: np.flatnonzero(role == name) for name in ("forget", "retain", "validation", "holdout", "test")}
    rows["nonmembers"] = rows["holdout"] if nonmembers is None else nonmembers
    return Subject(
        (classifier or Planted(waveform.shape[1], classes)).eval(),
        stream,
        labels,
        np.arange(len(labels)) if units is None else units,
        speakers,
        rows,
        tuple(f"class{number}" for number in range(classes)),
        label,
        forgotten,
        seed,
    )


CLASSES, SPEAKERS = 4, 6


def corpus(kind: str, copies: int = 4) -> dict[str, Any]:
    """Return labels, roles, speakers and the request: for each class and speaker, `copies` of each role."""
    cells = [
        (number, f"voice{speaker}", role)
        for number in range(CLASSES)
        for speaker in range(SPEAKERS)
        for role in ("retain", "train", "holdout", "test")
        for _ in range(copies)
    ]
    labels = np.array([cell[0] for cell in cells])
    speakers, role = np.array([cell[1] for cell in cells]), np.array([cell[2] for cell in cells])
    training = np.isin(role, ["retain", "train"])
    asked = {"class": labels == 1, "speaker": speakers == "voice2", "sample": role == "train"}[kind]
    role = np.where(training, np.where(asked, "forget", "retain"), role)
    held = np.flatnonzero((role == "holdout") & (asked if kind != "sample" else True))
    forgotten = (1,) if kind == "class" else ()
    return {"labels": labels, "role": role, "speakers": speakers, "forgotten": forgotten, "nonmembers": held}
