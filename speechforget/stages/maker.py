"""What stages that make several artefacts need of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from speechforget.config.evaluation import Training
from speechforget.data.requests.pool import Pool
from speechforget.data.requests.select import Request
from speechforget.distributed.protocol import Order
from speechforget.stages.split import Data
from speechforget.store import Artefact, Producer


class Maker(Protocol):
    """Make and find the artefacts of one config."""

    config: Mapping[str, Any]
    words: list[str]
    seed: int
    store: Producer
    trained: dict[str, str]
    made_from: dict[str, tuple[str, Mapping[str, Any]]]

    @property
    def data(self) -> Data:
        """Return the split corpus."""
        ...

    @property
    def request(self) -> Request:
        """Return the request of the run."""
        ...

    @property
    def before(self) -> Maker | None:
        """Return the run whose delivered model is the original of this one."""
        ...

    @property
    def forgotten_ids(self) -> str:
        """Return a hash of the forgotten and the withdrawn utterances."""
        ...

    @property
    def nonmember_ids(self) -> str:
        """Return a hash of the non-members."""
        ...

    @property
    def pool(self) -> Pool | None:
        """Return the pool of the audit."""
        ...

    @property
    def hearing(self) -> dict[str, Any]:
        """Return what decides the input of the classifier."""
        ...

    def train_all(self, names: Sequence[str]) -> dict[str, Artefact]:
        """Make models of `config.evaluation.trainings`."""
        ...

    def request_of(self, training: Training) -> Request | None:
        """Return what a model is trained without, or forgets."""
        ...

    def inputs_of(self, training: Training) -> dict[str, Any]:
        """Return what decides the weights of a trained model."""
        ...

    def name_of(self, training: Training) -> str:
        """Return the words of a model."""
        ...

    def make(
        self, training: Training, name: str, inputs: Mapping[str, Any], title: str, model: Path | None = None
    ) -> Artefact:
        """Make an artefact that needs torch."""
        ...

    def order(
        self, training: Training, name: str, folder: Path, key: str, title: str, model: Path | None = None
    ) -> Order:
        """Describe an artefact to build."""
        ...

    def unlearn(self, original: Artefact, training: Training) -> Artefact:
        """Run the method on an original."""
        ...

    def delivered(self) -> Artefact:
        """Return the model that the run delivers."""
        ...

    def score(self, kind: str, model: Artefact) -> Artefact:
        """Score a model."""
        ...

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Find or make an artefact."""
        ...
