"""Replay a function of tensors as a CUDA graph: one launch instead of hundreds, for models that a GPU finishes sooner.

A graph repeats the same kernels on the same memory. So the function must not wait for the device, and must change
tensors in place only where the next call finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

EAGER_CALLS = 2  # with inputs of a shape before its graph is captured: they load libraries and plans
Function = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Replay:
    """Call `function` on a list of tensors; on a GPU, replay a graph from the third call with the same shapes on.

    The results of a replayed call are overwritten by the next one. A function that cannot be captured is called as it
    is, after one log line.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self.function = function
        self.captures = device.type == "cuda"
        self.calls: dict[tuple[torch.Size, ...], int] = {}
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, Sequence[Tensor], Sequence[Tensor]]] = {}

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the function returns."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.graphs:
            self.calls[shapes] = self.calls.get(shapes, 0) + 1
            if not self.captures or self.calls[shapes] <= EAGER_CALLS or not self._capture(shapes, inputs):
                return self.function(inputs)
        graph, held, results = self.graphs[shapes]
        for target, tensor in zip(held, inputs, strict=True):
            target.copy_(tensor)
        graph.replay()
        return results

    def _capture(self, shapes: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> bool:
        held = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                results = self.function(held)
        except RuntimeError as error:
            self.captures = False
            torch.cuda.synchronize()
            logger.info("Training goes on without CUDA graphs: %s", str(error).splitlines()[0])
            return False
        self.graphs[shapes] = (graph, held, results)
        return True
