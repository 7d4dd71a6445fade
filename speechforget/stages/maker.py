"""What stages that make several artefacts need of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from speechforget.config.evaluation import Training
from speechforget.data.requests.pool import Pool
from speechforget.stages.split import Data
from speechforget.store import Artefact


class Maker(Protocol):
    """Make and find the artefacts of one config."""

    config: Mapping[str, Any]
    words: list[str]

    @property
    def data(self) -> Data:
        """Return the split corpus."""
        ...

    @property
    def pool(self) -> Pool | None:
        """Return the pool of the audit."""
        ...

    @property
    def hearing(self) -> dict[str, Any]:
        """Return what decides the input of the classifier."""
        ...

    def train(self, name: str) -> Artefact:
        """Make a model of `config.evaluation.trainings`."""
        ...

    def unlearn(self, original: Artefact, training: Training) -> Artefact:
        """Run the method on an original."""
        ...

    def score(self, kind: str, model: Artefact) -> Artefact:
        """Score a model."""
        ...

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Find or make an artefact."""
        ...
