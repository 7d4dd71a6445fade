"""The bench of methods: what it counts, and what it makes of it."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from speechforget.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    return importlib.import_module("bench_methods")


def test_the_ratio_is_of_seconds_and_of_passes_at_bare_speed(bench: ModuleType) -> None:
    bare = bench.Bare(forward=0.001, forward_backward=0.004)
    taken = bench.Taken(seconds=10.0, forward=4000, forward_backward=1000, bare=bare)
    assert taken.passes == 2000 and taken.ratio == pytest.approx(10.0 / (4000 * 0.001 + 1000 * 0.004))
    assert math.isnan(bench.Taken(0.1, 0, 0, bare).ratio)


def test_a_row_is_the_median_and_names_what_is_too_slow(bench: ModuleType) -> None:
    bare = bench.Bare(0.001, 0.004)
    runs = [bench.Taken(seconds, 0, 1000, bare) for seconds in (4.1, 4.4, 9.0)]
    assert bench.line_of("some", runs).split()[-1] == "1.10" and "above" not in bench.line_of("some", runs)
    assert "above 1.15" in bench.line_of("some", [bench.Taken(5.0, 0, 1000, bare)])
    assert bench.line_of("none", [bench.Taken(0.0, 0, 0, bare)]).split()[-1] == "-"


@pytest.mark.slow
def test_two_methods_in_small() -> None:
    words = [
        sys.executable,
        str(ROOT / "scripts" / "bench.py"),
        "methods",
        "--quick",
        "--methods",
        "finetune",
        "none",
        "trainer.threads=1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    forget, retain = map(int, re.findall(r"(\d+) utterances of forget and (\d+) of retain", done.stdout)[0])
    share = float(re.findall(r"F takes (\d\.\d+) of", done.stdout)[0])
    assert forget and 0 < share < 1
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith("  ")}
    assert set(rows) == {"method", "finetune", "none"}
    assert rows["finetune"][2:5] == ["0", str(2 * retain), str(2 * retain)]  # two epochs of retain, each pass one FB
    assert rows["none"][2:4] == ["0", "0"]


def test_a_method_that_is_not_there_is_a_sentence(bench: ModuleType) -> None:
    with pytest.raises(UserError, match="did you mean 'scrub'"):
        bench.methods(argparse.Namespace(methods=["scrubb"], trainer="cpu", overrides=[], quick=True))
