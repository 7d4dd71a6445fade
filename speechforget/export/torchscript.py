"""Write a model as TorchScript, for C++ and for Python without this package."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from speechforget.export.graph import Agreement, Graph, agreement, padded
from speechforget.export.source import Source, Unsupported

FILE = "model.torchscript.pt"


class OneByOne(nn.Module):
    """Run a graph that was traced for one waveform on each waveform of a batch.

    Some models write the size of the traced batch into their graph.
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Graph`."""
        logits, embedding = [], []
        for row in range(waveform.shape[0]):
            found = self.graph(waveform[row : row + 1], lengths[row : row + 1])
            logits.append(found[0])
            embedding.append(found[1])
        return torch.cat(logits), torch.cat(embedding)


def write_torchscript(folder: Path, source: Source, clips: list[Tensor]) -> tuple[Agreement, bool]:
    """Write `model.torchscript.pt` and compare it with PyTorch; return how it agrees, and if it loops over a batch.

    Raises Unsupported if the model cannot be traced, or if the traced one does not agree on all lengths.
    """
    graph = Graph(source.classifier, source.width).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; sizes that a trace fixes are checked below
        try:
            return _written(folder / FILE, _traced(graph, padded(clips[:3])), graph, clips), False
        except Unsupported:
            looped = torch.jit.script(OneByOne(_traced(graph, padded(clips[:1]))))
            return _written(folder / FILE, looped, graph, clips), True


def _traced(graph: Graph, example: tuple[Tensor, Tensor]) -> nn.Module:
    try:
        with torch.no_grad():
            return torch.jit.trace(graph, example, check_trace=False)
    except Exception as error:  # of the tracer, and of the compiler that it calls for parts of torchaudio
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(f"PyTorch cannot trace it ({line.rstrip('.: ')})") from error


def _written(path: Path, module: nn.Module, graph: Graph, clips: list[Tensor]) -> Agreement:
    torch.jit.save(module, str(path))
    try:
        return agreement(graph, torch.jit.load(str(path)), clips)
    except Unsupported:
        path.unlink()
        raise
