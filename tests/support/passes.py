"""Count forward passes of an evaluation: of one utterance through one model, both unchanged, and without gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from speechforget.models.tcresnet import TCResNet
from speechforget.pipeline import Pipeline
from speechforget.stages import attack as attack_stage
from speechforget.stages import score as score_stage
from speechforget.store import Store

CLOSE = 1e-3  # largest difference of features that are computed in two batches
SCORES = "scores"


class Passes:
    """Count passes: stage -> (weights, utterance) -> passes. A stage is `scores`, or the class of an attack."""

    def __init__(self) -> None:
        self.stage = ""
        self.counts: dict[str, Counter[tuple[int, int]]] = {}
        self.utterances = np.empty((0, 0), dtype=np.float32)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        self.stage = stage
        self.counts.setdefault(stage, Counter())
        yield
        self.stage = ""

    def see(self, classifier: torch.nn.Module, features: torch.Tensor) -> None:
        if not self.stage or classifier.training or torch.is_grad_enabled():
            return
        weights = hash(b"".join(value.numpy().tobytes() for value in classifier.state_dict().values()))
        for row in features.numpy().reshape(len(features), -1):
            self.counts[self.stage][weights, self._number(row)] += 1

    def _number(self, row: np.ndarray) -> int:
        """Number an utterance by its features; -1 for one that was never scored, such as one with added noise."""
        if len(self.utterances):
            gaps = np.abs(self.utterances - row).max(axis=1)
            if gaps.min() < CLOSE:
                return int(gaps.argmin())
        if self.stage != SCORES:
            return -1
        self.utterances = np.concatenate([self.utterances.reshape(-1, len(row)), row[None]])
        return len(self.utterances) - 1

    def again(self) -> dict[str, int]:
        """Return by attack the most passes of an utterance through a model that had scored it; without zeros."""
        scored = self.counts[SCORES]
        most = {
            stage: max((count for key, count in counts.items() if key in scored), default=0)
            for stage, counts in self.counts.items()
            if stage != SCORES
        }
        return {stage: count for stage, count in most.items() if count}


def counted(config: dict[str, Any]) -> tuple[Pipeline, Passes]:
    """Make all artefacts of a config of tcresnet, and count the passes of its evaluation."""
    passes = Passes()
    classify, score, run = TCResNet.classify, score_stage.score, attack_stage.run_attack

    def seen(self: TCResNet, features: torch.Tensor, lengths: torch.Tensor) -> Any:
        passes.see(self, features)
        return classify(self, features, lengths)

    def scored(*arguments: Any) -> None:
        with passes.during(SCORES):
            score(*arguments)

    def attacked(*arguments: Any) -> None:
        with passes.during(arguments[-1]["_target_"].rpartition(".")[2]):
            run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TCResNet, "classify", seen)
        patch.setattr(score_stage, "score", scored)
        patch.setattr(attack_stage, "run_attack", attacked)
        pipeline = Pipeline(config, Store.of(config))
        pipeline.run()
    return pipeline, passes


def check(pipeline: Pipeline, passes: Passes, models: int) -> None:
    """Assert that each of the models was scored once on every utterance, and that attacks read outputs from that."""
    scored = passes.counts[SCORES]
    assert len({weights for weights, _ in scored}) == models
    assert len(scored) == models * len(pipeline.data.table) and set(scored.values()) == {1}
    assert passes.again() == {"Probe": 1}  # it reads layers, which no score table holds
    assert passes.counts["Compression"] and passes.counts["NoiseBall"]  # of changed models, of changed utterances
