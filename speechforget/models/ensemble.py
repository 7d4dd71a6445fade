"""Classify with several classifiers of one kind, each trained on its own shard of the training set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.models.classifier import Classifier, Output


class Ensemble(Classifier):
    """Average the probabilities of members, by their shards' numbers.

    The logits are the logarithms of the mean probabilities (Bourtoule et al., 2021, average probabilities or count
    votes). Votes would tie, and would leave neither a loss nor a margin, which attacks and comparisons read. The
    embedding holds those of all members one behind the other: independent members share no axes, so a mean would mix
    what does not belong together. Members have equal frontends without weights, so the features are computed once.
    """

    def __init__(self, members: Mapping[int, Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleDict({str(number): member for number, member in sorted(members.items())})

    @property
    def each(self) -> list[Classifier]:
        """Return the members in the order of their shards."""
        return list(self.members.values())  # type: ignore[arg-type]

    @property
    def frontend(self) -> nn.Module:  # type: ignore[override]
        """Return the frontend of all members."""
        return self.each[0].frontend

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """Return the heads of all members."""
        return nn.ModuleList(member.head for member in self.each)

    @property
    def padding_counts(self) -> bool:  # type: ignore[override]
        """Return whether the amount of padding changes the outputs of the members."""
        return self.each[0].padding_counts

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """Return the options that rebuild it: those of a member, and the numbers of the shards."""
        return {**getattr(self.each[0], "rebuilt_with", {}), "members": [int(number) for number in self.members]}

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """Compute the logarithms of the mean probabilities, and the embeddings of all members."""
        outputs = [member.classify(features, lengths) for member in self.each]
        chances = torch.stack([output.logits.log_softmax(dim=1) for output in outputs])
        logits = chances.logsumexp(dim=0) - math.log(len(outputs))
        return Output(logits, torch.cat([output.embedding for output in outputs], dim=1))

    def heard(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Mark the cells of the features that lie within an utterance, as the members do."""
        return self.each[0].heard(features, lengths)

    def layers(self) -> list[nn.Module]:
        """List the layers of all members, one member after the other."""
        return [layer for member in self.each for layer in member.layers()]
