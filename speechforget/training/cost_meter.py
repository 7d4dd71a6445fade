"""Measure wall seconds, passes of samples and memory, also over a run that is resumed."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.distributed import collectives
from speechforget.training.machine import processor


class Cost:
    """Measure the cost of the work within its context.

    forward, forward_backward: samples that passed through the model (one forward_backward costs about three forwards).
    together: how many models train in the same seconds; each gets an equal part of them.
    shared: the cost of what other requests can reuse, and whether it was found instead of computed here (`reused`). The
        sums contain it in both cases, so that figures do not depend on earlier runs.
    """

    def __init__(self, together: int = 1) -> None:
        self.together = together
        self.forward = 0
        self.forward_backward = 0
        self.seconds = 0.0
        self.shared: dict[str, Any] = {}
        self._elsewhere: list[Any] = []  # machines of seconds that another process spent
        # A guess until the model is called.
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._started: float | None = None

    def watch(self, model: nn.Module) -> nn.Module:
        """Count every call of the model and of its later deep copies; return the model."""

        def count(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if self._started is None:
                return
            self._device = arguments[0].device.type
            if torch.is_grad_enabled():
                self.forward_backward += len(arguments[0])
            else:
                self.forward += len(arguments[0])

        model.register_forward_pre_hook(count)
        return model

    def spent(self, forward_backward: int, device: torch.device | None = None) -> None:
        """Count samples that passed forward and backward without a call of the model, as for per-sample gradients."""
        self.forward_backward += forward_backward if self.running else 0
        self._device = self._device if device is None else device.type

    @property
    def running(self) -> bool:
        """Return whether the meter runs."""
        return self._started is not None

    def __enter__(self) -> Cost:
        _synchronise()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self.elapsed()
        self._started = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the meter for work that only a picture needs, such as a learning curve."""
        running = self._started is not None
        if running:
            self.__exit__()
        try:
            yield
        finally:
            if running:
                self.__enter__()

    def elapsed(self) -> float:
        """Return the seconds so far, after the queued work of the device is done."""
        _synchronise()
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self.seconds + running / self.together

    def machine(self) -> dict[str, Any] | None:
        """Return device, host (name of the GPU, or of the processor with its cores), threads, ranks; models together.

        None if the seconds were spent on machines of several kinds.
        """
        host = torch.cuda.get_device_name() if self._device == "cuda" else processor()
        here = {"device": self._device, "host": host, "threads": torch.get_num_threads(), "ranks": collectives.world()}
        here |= {"together": self.together} if self.together > 1 else {}
        return here if all(machine == here for machine in self._elsewhere) else None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "seconds": self.elapsed(),
            "forward": self.forward,
            "forward_backward": self.forward_backward,
            "machine": self.machine(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Add what an earlier process spent. Seconds that this process spent on repeated one-shot work stay counted."""
        self.seconds += float(state["seconds"])
        self._elsewhere.append(state.get("machine"))
        counts = (int(state["forward"]), int(state["forward_backward"]))
        self.forward, self.forward_backward = counts if collectives.rank() == 0 else (0, 0)

    def merge(self) -> None:
        """Move the counts of all ranks to rank 0, which writes checkpoint and record. Every rank calls this."""
        counts = collectives.total(torch.tensor([self.forward, self.forward_backward]))
        self.forward, self.forward_backward = (int(count) if collectives.rank() == 0 else 0 for count in counts)

    def share(self, spent: dict[str, Any], reused: bool) -> None:
        """Record the cost of something shared, and add it to the sums if it was not spent here."""
        known = self.shared or {"seconds": 0.0, "forward": 0, "forward_backward": 0, "reused": True}
        self.shared = {name: known[name] + spent[name] for name in ("seconds", "forward", "forward_backward")}
        self.shared["reused"] = known["reused"] and reused
        if reused:
            self.add(spent)

    def add(self, spent: Mapping[str, Any]) -> None:
        """Add the cost of a part that another meter recorded, summed over all ranks."""
        self.seconds += float(spent["seconds"])
        self._elsewhere.append(spent.get("machine"))
        if collectives.rank() == 0:
            self.forward += int(spent["forward"])
            self.forward_backward += int(spent["forward_backward"])

    def record(self) -> dict[str, Any]:
        """Return the content of `cost.json`, with the peak memory of rank 0 in bytes.

        Peak memory is that of the GPU's allocator, or of the whole process on a CPU.
        """
        gpu = self._device == "cuda"
        peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        shared = {"shared": self.shared} if self.shared else {}
        return {**self.state_dict(), "peak_memory_bytes": peak, **shared}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
