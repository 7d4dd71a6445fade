"""What stages that make several artefacts need of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from speechforget.config.evaluation import Training
from speechforget.data.requests.pool import Pool
from speechforget.data.requests.select import Request
from speechforget.stages.split import Data
from speechforget.store import Artefact, Producer


class Maker(Protocol):
    """Make and find the artefacts of one config."""

    config: Mapping[str, Any]
    store: Producer
    words: list[str]

    @property
    def data(self) -> Data:
        """Return the split corpus."""
        ...

    @property
    def request(self) -> Request:
        """Return what must be forgotten."""
        ...

    @property
    def pool(self) -> Pool | None:
        """Return the pool of the audit."""
        ...

    @property
    def hearing(self) -> dict[str, Any]:
        """Return what decides the input of the classifier."""
        ...

    def name_of(self, training: Training) -> str:
        """Return the words of a model."""
        ...

    def left_out(self, training: Training) -> str | None:
        """Return a hash of the training utterances that a model is trained without."""
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
