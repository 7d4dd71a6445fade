"""Stage: model folder -> score table, one row for every utterance of the corpus, exact on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechforget import ranks
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
    Of several ranks each leaves the rows it scored in a file of its own; rank 0 joins them, by row, and checks that each is there once.
    """
    arrays = _scored(model, sources, trainer, description)
    if ranks.world() > 1:
        _write(folder / f"scores.rank{ranks.rank()}.npz", arrays)
        ranks.barrier()
        if ranks.rank():
            return
        pieces = [folder / f"scores.rank{rank}.npz" for rank in range(ranks.world())]
        arrays = _joined(pieces)
    for piece in folder.glob("scores.rank*"):  # of an earlier attempt on more ranks, too
        piece.unlink()
    if not np.array_equal(arrays["row"], sources.rows["all"]):
        raise RuntimeError(f"{folder}: the scored utterances are not exactly those asked for")
    _write(folder / "scores.npz", arrays)


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def _joined(pieces: Sequence[Path]) -> dict[str, np.ndarray]:
    tables = [table for table in (dict(np.load(piece)) for piece in pieces) if table]
    arrays = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.argsort(arrays["row"], kind="stable")
    return {name: array[order] for name, array in arrays.items()}


def _scored(model: Path, sources: Sources, trainer: Mapping[str, Any], description: str) -> dict[str, np.ndarray]:
    """This rank's rows."""
    device = start_process(trainer)
    classifier, _ = load_classifier(model)
    classifier.to(device)
    stream = sources.divided("all", BATCH_SIZE)
    parts: dict[str, list[np.ndarray]] = {"row": [], "label": [], "logits": [], "embedding": []}
    with bar(total=len(stream), description=description, unit="batch", disable=ranks.rank() > 0) as progress:
        for batch in stream:
            output = classifier(*(tensor.to(device) for tensor in batch.inputs))
            found = (batch.rows, batch.labels, output.logits, output.embedding)
            for name, tensor in zip(parts, found, strict=True):
                parts[name].append(tensor.cpu().numpy())
            progress.update(1)
    if not parts["row"]:  # there are more ranks than utterances
        return {}
    arrays = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    logits = torch.from_numpy(arrays["logits"]).double()
    arrays["loss"] = torch.nn.functional.cross_entropy(logits, torch.from_numpy(arrays["label"]), reduction="none").numpy()
    return arrays
