"""A classifier whose embedding passes an affine map before it leaves and before the head reads it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.errors import NotApplicable
from speechforget.models.classifier import Output

ERASER = "eraser"  # in the description of a model: the width of the map


class Erased:
    """Add a layer `eraser` between the embedding and the head of the classifier that it is mixed into."""

    eraser: nn.Linear
    head: nn.Module

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """Compute logits from the mapped embedding, and return that embedding."""
        embedding = self.eraser(super().classify(features, lengths).embedding)  # type: ignore[misc]
        return Output(self.head(embedding), embedding)

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """Return the options that rebuild it: those of the classifier, and the width of the map."""
        return {**getattr(super(), "rebuilt_with", {}), ERASER: self.eraser.in_features}


@functools.cache
def _erased(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Erased{kind.__name__}", (Erased, kind), {})


def insert_eraser(classifier: nn.Module, width: int) -> nn.Linear:
    """Give a classifier an `eraser` in place, at first the identity, and return it; one that has it keeps it.

    The object gets a class of its own with the mixin, so all names of layers and weights stay.
    Raises NotApplicable for an ensemble, which has no head of its own.
    """
    if isinstance(classifier, Erased):
        return classifier.eraser
    if not isinstance(classifier.head, nn.Linear):
        raise NotApplicable("An eraser stands before a head, and an ensemble has several: use another recipe.")
    weight = classifier.head.weight
    eraser = nn.Linear(width, width).to(weight)
    with torch.no_grad():
        eraser.weight.copy_(torch.eye(width))
        eraser.bias.zero_()
    classifier.__class__ = _erased(type(classifier))  # type: ignore[arg-type]
    classifier.eraser = eraser
    return eraser


@torch.no_grad()
def erase(classifier: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Map the embedding x to weight x + bias, after an eraser that is there already."""
    eraser = insert_eraser(classifier, len(bias))
    before = eraser.weight.to(weight), eraser.bias.to(bias)
    eraser.weight.copy_(weight @ before[0])
    eraser.bias.copy_(weight @ before[1] + bias)
