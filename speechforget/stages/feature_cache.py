"""The features of a corpus, for the models of one process that hear alike: original, oracle and unlearned are scored on the same sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_BYTES = 2**28
PLAIN = (bool, int, float, str, type(None))
TORCHS_OWN = frozenset(vars(nn.Module()))


class Features:
    """Features of the batches of one stream, kept while there are no more than MOST_BYTES of them, for frontends that have nothing to learn."""

    def __init__(self) -> None:
        self.frontend: nn.Module | None = None
        self.stream: tuple[object, ...] | None = None
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.count, self.kept = 0, False

    def of(self, classifier: nn.Module, count: int, stream: tuple[object, ...] | None) -> Features:
        """Turns to a classifier and a stream of `count` batches that `stream` identifies (None: nothing does); what is kept of others is dropped."""
        frontend = classifier.frontend
        assert isinstance(frontend, nn.Module)
        if self.frontend is None or stream is None or self.stream != stream or not same(self.frontend, frontend):
            self.batches.clear()
        self.frontend, self.stream, self.count = frontend, stream, count
        self.kept = stream is not None and next(frontend.parameters(), None) is None
        return self

    @property
    def complete(self) -> bool:
        """Whether all batches are there."""
        return len(self.batches) == self.count

    def make(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The features of the stream's next batch."""
        assert self.frontend is not None
        features: Tensor = self.frontend(*inputs)
        if self.kept and features.numel() * features.element_size() * self.count <= MOST_BYTES:
            self.batches.append((features, inputs[1]))
        return features


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules compute the same: of one class, with equal numbers, buffers and parts."""
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
    """What a module is told beside its buffers and parts; what every module of torch has is left out."""
    return {name: value for name, value in vars(module).items() if name not in TORCHS_OWN}


def _alike(one: object, other: object) -> bool:
    """Numbers, words and lists of them by value; of anything else only the very same: in doubt nothing is shared."""
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and one == other if isinstance(one, PLAIN) else one is other


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.shape == other.shape and bool(torch.equal(one, other))
