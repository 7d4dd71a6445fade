"""Quantise the ONNX file of a small model to 8 bits, and measure again what it remembers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.export.corpus import Corpus
from speechforget.export.onnx_file import OnnxFile
from speechforget.export.source import Unsupported
from speechforget.models.encoders.base import EncoderClassifier
from speechforget.models.transcriber import Transcriber

FILE = "model.int8.onnx"
CALIBRATION = 256  # retained recordings from which the ranges of activations are taken
AT_ONCE = 32  # recordings of one pass
KINDS = ["Conv", "Gemm", "MatMul"]
SCOPES = "pkg.torch.onnx.name_scopes"  # the modules that a node comes from, as the exporter records them


class _Reader:
    """Give onnxruntime the recordings that calibrate ranges, in its own protocol."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the inputs of the next pass; None at the end."""
        found = next(self.batches, None)
        return None if found is None else {"waveform": found[0].numpy(), "lengths": found[1].numpy()}


def check_small(classifier: nn.Module) -> None:
    """Raise Unsupported for an encoder, whose rounding to 8 bits needs care, and for a model of transcripts."""
    if isinstance(classifier, EncoderClassifier):
        raise Unsupported("int8 is for keyword and speaker models, not for pretrained encoders")
    if isinstance(classifier, Transcriber):
        raise Unsupported("int8 is for keyword and speaker models, and its scores are not measured for transcripts")


def write_int8(folder: Path, float_file: Path, corpus: Corpus) -> int:
    """Write `model.int8.onnx`; return how many recordings calibrated it.

    Weights of convolutions and linear layers have 7 bits per channel, and activations 8: products of 8 and 8 bits
    overflow on processors without VNNI, so answers would depend on the processor. Ranges are those of retained
    recordings alone, so no forgotten recording enters again. The frontend stays in float32.
    """
    tools: Any = importlib.import_module("onnxruntime.quantization")
    retain = corpus.sources.rows["retain"]
    rows = retain[np.unique(np.linspace(0, len(retain) - 1, min(CALIBRATION, len(retain))).astype(int))]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a step that the exporter has already done: folded batch-norms
    try:
        tools.quantize_static(
            str(float_file),
            str(folder / FILE),
            _Reader(_batches(corpus, rows)),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=KINDS,
            per_channel=True,
            reduce_range=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=frontend_nodes(float_file),
        )
    finally:
        logging.disable(before)
    return len(rows)


def frontend_nodes(file: Path) -> list[str]:
    """List the nodes of the frontend: features in 8 bits would be another input."""
    graph = importlib.import_module("onnx").load(str(file), load_external_data=False).graph
    scopes = {node.name: " ".join(one.value for one in node.metadata_props if one.key == SCOPES) for node in graph.node}
    return [name for name, scope in scopes.items() if "classifier.frontend" in scope]


def _batches(corpus: Corpus, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    waveforms = corpus.sources.waveforms
    for start in range(0, len(rows), AT_ONCE):
        waveform, lengths = waveforms.gather(rows[start : start + AT_ONCE])
        yield waveform.cpu(), lengths


def score_file(file: Path, corpus: Corpus) -> dict[str, NDArray[Any]]:
    """Score every recording with an ONNX file as `stages.score` scores a model: logits, loss in nats, embedding."""
    run, sources = OnnxFile(file), corpus.sources
    labels = torch.tensor(corpus.data.numbers)
    parts = []
    for start in range(0, len(labels), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(labels)))
        crops = [0.5] if sources.windows == 1 else np.linspace(0, 1, sources.windows).tolist()
        found = []
        for position in crops:
            waveform, lengths = sources.waveforms.gather(rows, float(position))
            found.append(run(waveform.cpu(), lengths))
        parts.append([torch.stack(outputs).mean(dim=0) for outputs in zip(*found, strict=True)])
    logits, embedding = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if not (logits.isfinite().all() and embedding.isfinite().all()):
        raise Unsupported("outputs of the quantised model are not finite")
    loss = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    return {"logits": logits.numpy(), "loss": loss.numpy(), "embedding": embedding.numpy()}
