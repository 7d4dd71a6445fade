"""Name the kind of machine: seconds of different kinds cannot be compared."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path


@functools.cache
def processor() -> str:
    """Return the processor and its number of cores, such as `AMD EPYC 7B13, 16 cores`."""
    return f"{_model()}, {os.cpu_count()} cores"


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
