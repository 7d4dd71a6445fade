"""Stage: score every utterance of the corpus with a model, exact on any number of ranks.

Columns are written to memory-mapped files as they are computed, so memory does not grow with the corpus or with the
number of classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechforget.data.batches.streams import Sources, Stream
from speechforget.distributed import collectives
from speechforget.models.classifier import Output
from speechforget.models.folder import load_classifier
from speechforget.models.transcriber import Transcriber
from speechforget.progress import bar
from speechforget.recognition.ctc import is_text
from speechforget.stages.feature_cache import FeatureCache
from speechforget.stages.score_files import COLUMNS, MORE, column
from speechforget.stages.transcript_columns import check_frames, transcript_columns
from speechforget.training.device import start_process
from speechforget.training.finite import check_outputs

VERSION = 2  # raise it whenever the same inputs give other scores
BATCH_SIZE = 256
KINDS = {"row": np.int64, "label": np.int64, "logits": np.float32, "loss": np.float64, "embedding": np.float32}
KINDS |= {"errors": np.int64, "heard": np.int16}
ROWS_AT_ONCE = 4096  # copied at once when the parts of the ranks are joined

_features = FeatureCache()  # of the last corpus that this process scored


def score(
    folder: Path, model: Path, sources: Sources, trainer: Mapping[str, Any], description: str, corpus: str | None = None
) -> None:
    """Score the rows `all` of `sources` with the classifier of the folder `model`, in float32; write a file per column.

    Columns: row (n,), label (n,), logits (n, classes) float32, loss (n,) float64 in nats, embedding (n, dimensions)
    float32. Logits and embedding are means over the windows of an utterance; the loss is that of the mean logits.
    For texts see `transcript_columns`.
    Each rank writes its rows to its own files; rank 0 joins them and checks that every row is there exactly once.
    corpus: identifies the utterances, so that models scored by one process share features; None: share nothing.
    Raises FloatingPointError if the logits, the loss or the embedding of an utterance is not finite.
    """
    device = start_process({**trainer, "precision": "32-true"})
    classifier, described = load_classifier(model)
    check_frames(classifier, sources)
    mine = _Columns(
        folder, sources.rows["all"][collectives.rank() :: collectives.world()], f".rank{collectives.rank()}"
    )
    with torch.inference_mode():
        wrong = _fill(mine, classifier.to(device), described["labels"], sources, device, description, corpus)
    check_outputs(int(collectives.total(torch.tensor([wrong]))), len(sources.rows["all"]), "outputs")
    if collectives.rank() == 0:
        _join(folder, sources.rows["all"])


class _Columns:
    """Write columns of some rows to files with a suffix; files are made when the first values show their width."""

    def __init__(self, folder: Path, rows: np.ndarray, suffix: str) -> None:
        self.folder, self.rows, self.suffix = folder, rows, suffix
        self.files: dict[str, np.ndarray] = {}

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Write values (n, ...) at the positions of their rows."""
        for name, part in values.items():
            if name not in self.files:
                path = column(self.folder, name + self.suffix)
                shape = (len(self.rows), *part.shape[1:])
                self.files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=KINDS[name], shape=shape)
            self.files[name][np.searchsorted(self.rows, values["row"])] = part

    def flush(self) -> None:
        """Write everything to the file system and close the files."""
        for file in self.files.values():
            file.flush()  # type: ignore[attr-defined]
        self.files.clear()


def _fill(
    columns: _Columns,
    classifier: nn.Module,
    names: Sequence[str],
    sources: Sources,
    device: torch.device,
    description: str,
    corpus: str | None,
) -> int:
    """Score all rows; return how many utterances have outputs that are not finite."""
    wrong, batches, width = 0, -(-len(columns.rows) // BATCH_SIZE), sources.waveforms.samples
    if isinstance(classifier, Transcriber):
        width = int(classifier.counts(torch.tensor([width])))
    with bar(total=batches, description=description, unit="batch", disable=collectives.rank() > 0) as progress:
        for rows, output in outputs(classifier, sources, device, "all", corpus):
            found = Output(*(tensor.cpu() for tensor in output))
            values = {"row": rows, **scored(found, sources.labels[rows], names, width)}
            columns.write(values)
            wrong += int((~_sound(values)).sum())
            progress.update(1)
    columns.flush()
    return wrong


def scored(output: Output, labels: np.ndarray, names: Sequence[str], width: int) -> dict[str, np.ndarray]:
    """Return the columns of some utterances but their rows.

    labels: class numbers, or texts as numbers of letters. names: of the outputs. width: the most frames of a text.
    """
    embedding = {"embedding": output.embedding.numpy()}
    if is_text(output.logits):
        return {**transcript_columns(output.logits, torch.from_numpy(labels), names, width), **embedding}
    loss = nn.functional.cross_entropy(output.logits.double(), torch.from_numpy(labels), reduction="none")
    return {"label": labels, "logits": output.logits.numpy(), "loss": loss.numpy(), **embedding}


def _sound(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which utterances have finite logits, loss and embedding."""
    found: np.ndarray = np.isfinite(values["loss"])
    for name in ("logits", "embedding"):
        found &= np.isfinite(values[name]).all(axis=1)
    return found


def outputs(
    classifier: nn.Module, sources: Sources, device: torch.device, name: str, corpus: str | None = None
) -> Iterator[tuple[np.ndarray, Output]]:
    """Yield the numbers of this rank's rows of a set of `sources`, and their outputs, in batches, each row once.

    The caller chooses whether gradients are kept. corpus: as for `score`.
    """
    stream = sources.sharded(name, BATCH_SIZE)
    stays = (
        None
        if corpus is None
        else (corpus, sources.waveforms.samples, sources.bucketed, collectives.rank(), collectives.world(), device)
    )
    features = _features.of(classifier, len(stream), stays)
    for rows, inputs, lengths in _featured(stream, features, device):
        output = classifier.classify(inputs, lengths)  # type: ignore[operator]
        yield rows, _averaged(classifier, output, rows, sources, device)


def _featured(
    stream: Stream, features: FeatureCache, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield rows, features and lengths in samples of each batch."""
    if features.complete:
        for rows, (values, lengths) in zip(stream.steps(), features.batches, strict=True):
            yield rows, values, lengths
        return
    features.batches.clear()
    for batch in stream:
        inputs = tuple(tensor.to(device) for tensor in batch.inputs)
        yield batch.rows.numpy(), features.make(inputs), inputs[1]


def _averaged(
    classifier: nn.Module, output: Output, rows: np.ndarray, sources: Sources, device: torch.device
) -> Output:
    """Return logits and embedding averaged over windows; an utterance that is short enough has one window."""
    logits, embedding = output
    longer = np.flatnonzero(sources.waveforms.length[rows] > sources.waveforms.samples)
    if sources.windows == 1 or not len(longer):
        return output
    picked = torch.from_numpy(longer).to(device)
    sums = [torch.zeros_like(tensor[picked]) for tensor in output]
    for window in _windows(classifier, rows[longer], sources, device):
        for total, tensor in zip(sums, window, strict=True):
            total.add_(tensor)
    means = [total / sources.windows for total in sums]
    return Output(logits.index_copy(0, picked, means[0]), embedding.index_copy(0, picked, means[1]))


def _windows(classifier: nn.Module, rows: np.ndarray, sources: Sources, device: torch.device) -> Iterator[Output]:
    """Yield the outputs of evenly spaced crops, from the start to the end of each utterance."""
    for position in np.linspace(0, 1, sources.windows):
        waveform, lengths = sources.waveforms.gather(rows, float(position))
        yield classifier(waveform.to(device), lengths.to(device))


def _join(folder: Path, rows: np.ndarray) -> None:
    """Join the files of the ranks to one file per column; files of a single rank are renamed."""
    written = [name for name in MORE if any(folder.glob(f"{column(folder, name).stem}.rank*.npy"))]
    for name in (*COLUMNS, *written):
        pieces = [column(folder, f"{name}.rank{rank}") for rank in range(collectives.world())]
        partial = column(folder, f"{name}.partial")
        if len(pieces) == 1:
            pieces[0].replace(partial)
        else:
            # With more ranks than utterances, some ranks have no file.
            _merge([np.load(piece, mmap_mode="r") for piece in pieces if piece.exists()], partial, len(rows))
        if name == "row" and not np.array_equal(np.load(partial, mmap_mode="r"), rows):
            raise RuntimeError(f"{folder}: the scored utterances are not exactly those asked for")
        partial.replace(column(folder, name))
    for piece in folder.glob("*.rank*.npy"):  # also those of an earlier attempt on more ranks
        piece.unlink()


def _merge(parts: list[np.ndarray], path: Path, count: int) -> None:
    """Interleave the parts: rank r holds rows r, r + ranks, r + 2 ranks, ..."""
    merged = np.lib.format.open_memmap(path, mode="w+", dtype=parts[0].dtype, shape=(count, *parts[0].shape[1:]))
    for rank, part in enumerate(parts):
        for start in range(0, len(part), ROWS_AT_ONCE):
            piece = part[start : start + ROWS_AT_ONCE]
            first = rank + start * collectives.world()
            merged[first : first + len(piece) * collectives.world() : collectives.world()] = piece
    merged.flush()
