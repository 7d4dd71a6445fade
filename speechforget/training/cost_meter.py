"""What a piece of work takes: wall seconds, sample passes and memory, counted where they are spent and carried through a resumption."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speechforget.distributed import collectives
from speechforget.training.machine import processor


class Cost:
    """A meter that runs within its context. forward and forward_backward count samples (one forward_backward is about three forwards).

    shared: the part that was spent on what other requests use too, and whether it was found instead of spent here (`reused`); it is in the sums in
    either case, so that figures do not depend on what ran before.
    """

    def __init__(self) -> None:
        self.forward = 0
        self.forward_backward = 0
        self.seconds = 0.0
        self.shared: dict[str, Any] = {}
        self._elsewhere: list[Any] = []  # the machines of seconds that were not spent by this process
        self._device = "cuda" if torch.cuda.is_available() else "cpu"  # until the model is called
        self._started: float | None = None

    def watch(self, model: nn.Module) -> nn.Module:
        """Counts every call of the model, and of each deep copy made of it later."""

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

    def spent(self, forward_backward: int) -> None:
        """Counts samples that went forward and backward without a call of the model, as in vectorised gradients of single samples."""
        self.forward_backward += forward_backward if self.running else 0

    @property
    def running(self) -> bool:
        """Whether it counts."""
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
        """Does not count what is done for a picture only, such as a learning curve."""
        running = self._started is not None
        if running:
            self.__exit__()
        try:
            yield
        finally:
            if running:
                self.__enter__()

    def elapsed(self) -> float:
        """Seconds so far, with the device's queued work done."""
        _synchronise()
        return self.seconds + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def machine(self) -> dict[str, Any] | None:
        """Where the seconds are spent: device, host (the GPU's name, or the processor's with its cores), threads, ranks; None for several kinds."""
        host = torch.cuda.get_device_name() if self._device == "cuda" else processor()
        here = {"device": self._device, "host": host, "threads": torch.get_num_threads(), "ranks": collectives.world()}
        return here if all(machine == here for machine in self._elsewhere) else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "seconds": self.elapsed(),
            "forward": self.forward,
            "forward_backward": self.forward_backward,
            "machine": self.machine(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what an earlier process had spent; what this one spent since its start to repeat one-shot work stays counted in seconds."""
        self.seconds += float(state["seconds"])
        self._elsewhere.append(state.get("machine"))
        counts = (int(state["forward"]), int(state["forward_backward"]))
        self.forward, self.forward_backward = counts if collectives.rank() == 0 else (0, 0)

    def merge(self) -> None:
        """Leaves the counts of all ranks with rank 0, so that its checkpoint and its record hold them; every rank calls this."""
        counts = collectives.total(torch.tensor([self.forward, self.forward_backward]))
        self.forward, self.forward_backward = (int(count) if collectives.rank() == 0 else 0 for count in counts)

    def share(self, spent: dict[str, Any], reused: bool) -> None:
        """Notes what was spent on something shared; adds it to the sums where it was not spent here."""
        known = self.shared or {"seconds": 0.0, "forward": 0, "forward_backward": 0, "reused": True}
        self.shared = {name: known[name] + spent[name] for name in ("seconds", "forward", "forward_backward")}
        self.shared["reused"] = known["reused"] and reused
        if reused:
            self.seconds += float(spent["seconds"])
            self._elsewhere.append(spent.get("machine"))
            if collectives.rank() == 0:
                self.forward, self.forward_backward = (
                    self.forward + spent["forward"],
                    self.forward_backward + spent["forward_backward"],
                )

    def record(self) -> dict[str, Any]:
        """For `cost.json`: with the peak memory in bytes, of the GPU's allocator or of the whole process on a CPU; of several ranks, rank 0's."""
        gpu = self._device == "cuda"
        peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        shared = {"shared": self.shared} if self.shared else {}
        return {**self.state_dict(), "peak_memory_bytes": peak, **shared}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
