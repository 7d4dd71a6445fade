"""Memory and idle threads of a process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

# Allocates, writes and frees blocks of 16 MB 20 times, as batches do; prints the megabytes that the system had to give.
PROGRAM = """
import resource
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def batch():
    pieces = [ctypes.create_string_buffer(16 * 2**20) for _ in range(4)]
import ctypes
batch()
before = faults()
for _ in range(20):
    batch()
print((faults() - before) * resource.getpagesize() / 2**20)
"""
needs_mallopt = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")),
    reason="this system's C library has no mallopt",
)


def megabytes(first: str, **environment: str) -> float:
    """Return how many megabytes the system gave for 20 batches of 64 MB."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@needs_mallopt
def test_memory_that_a_batch_frees_is_there_for_the_next_one() -> None:
    assert megabytes("import speechforget.cli.main") < 64


@needs_mallopt
def test_what_the_user_asked_of_the_allocator_stands() -> None:
    asked = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    assert megabytes("import speechforget.cli.main", **asked) > 20 * 64 * 0.9


def test_idle_threads_sleep_after_a_while_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from speechforget.training.runtime import settle

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    settle()
    assert os.environ["GOMP_SPINCOUNT"] == "2000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    settle()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
