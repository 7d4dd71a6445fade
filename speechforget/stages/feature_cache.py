"""Cache the features of a corpus: original, oracle and unlearned are scored on the same input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_BYTES = 2**28
PLAIN = (bool, int, float, str, type(None))
TORCHS_OWN = frozenset(vars(nn.Module()))


class FeatureCache:
    """Keep the features of one stream, at most MOST_BYTES of them, of a frontend without parameters."""

    def __init__(self) -> None:
        self.frontend: nn.Module | None = None
        self.stream: tuple[object, ...] | None = None
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.count, self.kept = 0, False

    def of(self, classifier: nn.Module, count: int, stream: tuple[object, ...] | None) -> FeatureCache:
        """Select a classifier and a stream of `count` batches; features of other ones are dropped.

        stream: identifies the stream; None: features are not kept.
        """
        frontend = classifier.frontend
        assert isinstance(frontend, nn.Module)
        if self.frontend is None or stream is None or self.stream != stream or not same(self.frontend, frontend):
            self.batches.clear()
        self.frontend, self.stream, self.count = frontend, stream, count
        self.kept = stream is not None and next(frontend.parameters(), None) is None
        return self

    @property
    def complete(self) -> bool:
        """Return whether the features of all batches are kept."""
        return len(self.batches) == self.count

    def make(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the features of the next batch of the stream."""
        assert self.frontend is not None
        features: Tensor = self.frontend(*inputs)
        if self.kept and features.numel() * features.element_size() * self.count <= MOST_BYTES:
            self.batches.append((features, inputs[1]))
        return features


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules compute the same: same class, equal attributes, buffers, parameters and children."""
    if type(one) is not type(other):
        return False
    mine, theirs = (
        dict(module.named_buffers(recurse=False)) | dict(module.named_parameters(recurse=False))
        for module in (one, other)
    )
    if mine.keys() != theirs.keys() or any(not _equal(mine[name], theirs[name]) for name in mine):
        return False
    mine_plain, theirs_plain = _attributes(one), _attributes(other)
    if mine_plain.keys() != theirs_plain.keys() or any(
        not _alike(mine_plain[name], theirs_plain[name]) for name in mine_plain
    ):
        return False
    parts, others = dict(one.named_children()), dict(other.named_children())
    return parts.keys() == others.keys() and all(same(parts[name], others[name]) for name in parts)


def _attributes(module: nn.Module) -> dict[str, object]:
    """Return the attributes of a module that a plain torch module does not have."""
    return {name: value for name, value in vars(module).items() if name not in TORCHS_OWN}


def _alike(one: object, other: object) -> bool:
    """Compare numbers, strings and lists of them by value, anything else by identity."""
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and one == other if isinstance(one, PLAIN) else one is other


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.shape == other.shape and bool(torch.equal(one, other))
