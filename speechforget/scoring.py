"""Stage: model folder -> score table, one row for every utterance of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechforget.data.streams import Sources
from speechforget.launch import start_process
from speechforget.loading import load_classifier
from speechforget.progress import bar

VERSION = 1  # of what this stage computes
BATCH_SIZE = 256


@torch.no_grad()
def score(folder: Path, model: Path, sources: Sources, trainer: Mapping[str, Any], description: str) -> None:
    """Scores every row of `sources` named `all` with the classifier of the folder `model`, in float32, and writes `scores.npz`.

    Arrays: row (n,), label (n,), logits (n, classes) float32, loss (n,) float64 in nats, embedding (n, dimensions) float32.
    """
    device = start_process(trainer)
    classifier, _ = load_classifier(model)
    classifier.to(device)
    stream = sources.ordered("all", BATCH_SIZE)
    parts: dict[str, list[np.ndarray]] = {"row": [], "label": [], "logits": [], "embedding": []}
    with bar(total=len(stream), description=description, unit="batch") as progress:
        for batch in stream:
            output = classifier(*(tensor.to(device) for tensor in batch.inputs))
            found = (batch.rows, batch.labels, output.logits, output.embedding)
            for name, tensor in zip(parts, found, strict=True):
                parts[name].append(tensor.cpu().numpy())
            progress.update(1)
    arrays = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    logits = torch.from_numpy(arrays["logits"]).double()
    arrays["loss"] = torch.nn.functional.cross_entropy(logits, torch.from_numpy(arrays["label"]), reduction="none").numpy()
    temporary = folder / "scores.partial.npz"
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(folder / "scores.npz")
