"""What a process that computes on a CPU asks of its system, before torch is loaded.

- How long an idle OpenMP thread spins before it sleeps. Where jobs share cores the default, about for ever, made training 25 times slower than this;
  sleeping at once made it 1.7 times slower on free cores (TC-ResNet, two threads, two cores).
- That memory which a batch frees is kept for the next one. By default glibc gives larger pieces back to the system and asks for them again, a page
  at a time, in every step. Kept, a forward pass took 0.4 ms instead of 0.8 an utterance, with its backward pass 0.85 instead of 1.2 (TC-ResNet,
  batches of 64, one thread). The numbers that are computed are the same.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 256 * 2**20  # bytes, free at the end of the heap, that are not given back
LARGEST = 32 * 2**20  # bytes of a piece that comes from the heap; glibc allows no more


def settle() -> None:
    """Asks for both; what the user set in the environment stands, and a C library that knows no `mallopt` is left as it is."""
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" and not chosen else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)
