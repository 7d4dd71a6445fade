"""Write a model as one ONNX file with its frontend inside, and run such a file."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.distributed.dropout import UtteranceDropout
from speechforget.export.graph import Agreement, Graph, agreement, padded
from speechforget.export.source import Source, Unsupported

FILE = "model.onnx"
# 18 of the standard operators: STFT is one of them since 17, so the frontend needs no approximation.
OPSET = 18
TRACES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # of nodes: they hold paths of this machine
MOST_BYTES = 1_800_000_000  # of weights in one file; protobuf ends at 2 GB
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS, OUTPUTS = ["waveform", "lengths"], ["logits", "embedding"]


def need_packages() -> None:
    """Raise Unsupported where a package of the extra `export` is not installed."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise Unsupported(f"it needs the package {name}: install it with pip install -e '.[export]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about versions of its own parts."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)


def write_onnx(folder: Path, source: Source, clips: list[Tensor]) -> Agreement:
    """Write `model.onnx`, and compare it in onnxruntime with PyTorch on clips of different lengths.

    Inputs: waveform (batch, samples) float32 in [-1, 1], lengths (batch,) int64 in samples; both axes are dynamic.
    Outputs: logits (batch, classes), embedding (batch, dimensions). Weights beyond 1.8 GB are in a second file.
    Raises Unsupported if the model cannot be traced, or if the file does not agree.
    """
    graph = Graph(source.classifier, source.width).eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                _traced(graph, padded(clips[:3])),
                input_names=INPUTS,
                output_names=OUTPUTS,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # dozens of types, of the exporter
        raise Unsupported(f"PyTorch's exporter cannot trace it ({_first(error)})") from error
    assert program is not None
    program.model.metadata_props.update(_facts(source))
    for node in program.model.graph.all_nodes():
        for key in TRACES:
            node.metadata_props.pop(key, None)
    initializers = program.model.graph.initializers
    for name in {*INPUTS, *OUTPUTS} & set(initializers):  # a weight may have such a name, and names are unique
        weight = initializers.pop(name)
        weight.name = f"{name}_weight"
        program.model.graph.register_initializer(weight)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    program.save(folder / FILE, external_data=weights > MOST_BYTES)
    return agreement(graph, OnnxFile(folder / FILE), clips)


def _traced(graph: Graph, example: tuple[Tensor, Tensor]) -> torch.export.ExportedProgram:
    """Trace a graph for any batch and number of samples.

    Tracing fixes the batch where a model calls `len`, as KWT does; strict tracing reads the code instead.
    """
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"waveform": {0: dynamic, 1: dynamic}, "lengths": {0: dynamic}}
    try:
        return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
    except Exception:  # dozens of types, of the exporter; strict tracing raises for what neither can trace
        return torch.export.export(_without_dropout(graph), example, dynamic_shapes=shapes, strict=True)


def _without_dropout(graph: Graph) -> Graph:
    """Copy a graph without dropout, which does nothing in evaluation: strict tracing cannot read its draws."""
    copied = copy.deepcopy(graph)
    copied.classifier._forward_pre_hooks.clear()  # the only one tells dropout which utterances it draws for
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, UtteranceDropout):
                setattr(parent, name, nn.Identity())
    return copied


def _facts(source: Source) -> dict[str, str]:
    """Return what a program needs to call the file, as text."""
    description = source.description
    return {
        "labels": json.dumps(description["labels"], ensure_ascii=False),
        "sample_rate": str(description["sample_rate"]),
        "seconds": str(description["seconds"]),
    }


def _first(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.')}" if lines else type(error).__name__


class OnnxFile:
    """Run an ONNX file on the CPU with one thread, so that the order of sums is fixed."""

    def __init__(self, path: Path) -> None:
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures are raised; its log repeats them
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (batch, classes) and embedding (batch, dimensions)."""
        given = {"waveform": waveform.numpy(), "lengths": lengths.numpy()}
        logits, embedding = (torch.from_numpy(found) for found in self.session.run(OUTPUTS, given))
        return logits, embedding
