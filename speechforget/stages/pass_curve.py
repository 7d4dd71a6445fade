"""Measure accuracy and loss of a model on some sets of utterances, for its learning curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.data.batches.streams import Sources, Stream
from speechforget.distributed import collectives
from speechforget.training.loop import accuracy

BATCH = 256


def measured(
    model: nn.Module, sources: Sources, rows: Mapping[str, NDArray[np.int64]], device: torch.device
) -> dict[str, float]:
    """Return `<set>/accuracy` and `<set>/loss`, the mean cross-entropy in nats. rows: of each set.

    Every rank calls this. Raises FloatingPointError if logits are not finite.
    """
    found, sources = {}, sources.with_rows(**rows)
    for name in rows:
        losses = Losses(model)
        stream: Any = losses.batches(sources.sharded(name, BATCH))
        found[f"{name}/accuracy"] = accuracy(losses, stream, device)
        found[f"{name}/loss"] = losses.mean()
    return found


class Losses(nn.Module):
    """Sum the cross-entropy of all batches that pass through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.labels = model, torch.empty(0, dtype=torch.int64)
        self.sums = torch.zeros(2, dtype=torch.float64)  # losses in nats, utterances

    def batches(self, stream: Stream) -> Iterator[Batch]:
        """Yield the batches of a stream, and remember the labels of the current one."""
        for batch in stream:
            self.labels = batch.labels
            yield batch

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the model returns."""
        outputs = self.model(*inputs)
        logits = outputs.logits.double().cpu()
        losses = nn.functional.cross_entropy(logits, self.labels.cpu(), reduction="sum")
        self.sums += torch.stack([losses, torch.tensor(float(len(logits)), dtype=torch.float64)])
        return outputs

    def mean(self) -> float:
        """Return the mean over the utterances of all ranks, in nats."""
        total, count = collectives.total(self.sums).tolist()
        return float(total / count)
