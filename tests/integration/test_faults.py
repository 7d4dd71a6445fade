"""Inject random faults and require the same numbers afterwards (docs/faults.md).

    SPEECHFORGET_FAULTS=200 pytest tests/integration/test_faults.py -m nightly -n0 -s

injects 200 faults and prints a table. SPEECHFORGET_FAULT_SEED=7 selects other faults; a failure names its own seed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.fault_kinds import (
    ROOM,
    checkpoints,
    clock,
    corpus_changes,
    damage,
    full_disk,
    leftover,
    own_disk,
    read_only,
    signals,
    spoil,
    strike,
)
from support.faults import Bench, FaultError, Injected, Round, clear

FAULTS, SEED = int(os.environ.get("SPEECHFORGET_FAULTS", "0")), int(os.environ.get("SPEECHFORGET_FAULT_SEED", "0"))


@pytest.fixture(scope="module")
def make_bench(small: list[str], tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    return lambda *jobs: Bench(tmp_path_factory.mktemp("faults"), small, tones, jobs)


# Signals


# Files of dead processes, and wrong clocks


# Damage


# Disks


# Corpora


SCENARIOS: dict[Callable[[Round], None], float] = {
    signals: 5,
    damage: 6,
    checkpoints: 3,
    full_disk: 1,
    read_only: 1,
    corpus_changes: 1,
}


def run(turn: Round, scenario: Callable[..., None], *arguments: Any) -> None:
    """Run one round. Its error contains what is needed to repeat it."""
    turn.bench.rounds.append(f"{scenario.__name__}, {turn.shape}, {turn.sweeps} at once")
    try:
        scenario(turn, *arguments)
    except FaultError as error:
        for each in turn.injected:
            each.outcome = "failed"
        raise FaultError(
            "\n".join([f"SPEECHFORGET_FAULT_SEED={turn.seed}: {turn.bench.rounds[-1]}", *turn.told, str(error)])
        ) from None
    finally:
        with suppress(FaultError):
            turn.end_processes(0)
        turn.bench.injected += turn.injected
    shutil.rmtree(turn.output)


def random_round(bench: Bench, seed: int) -> None:
    """Run a round that its seed determines completely."""
    draw = Random(seed)
    (scenario,) = draw.choices([*SCENARIOS], [*SCENARIOS.values()])
    # The shape matters little for damage, which only concerns reading.
    (shape,) = draw.choices(["one", "joblib", "ranks"], [9, 2, 1] if scenario is damage else [4, 2, 2])
    (sweeps,) = draw.choices([1, 2, 4], [12, 3, 1] if shape == "one" else [12, 1, 0])
    run(Round(bench, seed, shape, sweeps), scenario)


def a_bad_day(turn: Round) -> None:
    """Inject one fault of each important kind in sequence."""
    with own_disk(turn, 1_100_000) as remount:
        (sweep,) = turn.start()
        assert sweep.end() == 1 and "is full: make room" in clear(sweep, "on a full disk")
        turn.note("full disk", "1100000 bytes")
        assert remount(f"size={ROOM * 4}")
        sweeps = turn.start()
        assert strike(turn, "SIGKILL of a parent", sweeps, 60, "*/*/checkpoint.ckpt") and sweeps[0].end() == -9
        turn.note("SIGKILL of a parent", "at its first checkpoint")
        for path in turn.output.glob("*/*/checkpoint.ckpt"):
            turn.note("damage: checkpoint", spoil(path, turn.draw, "flip"), turn.artefact_of(path))
        clock(turn)
        leftover(turn)
        turn.settle()
        for path, way in (
            (next(turn.output.glob("split/*/utterances.csv")), "flip"),
            (next(turn.output.glob("result/*/forget.txt")), "cut"),
        ):
            turn.note("damage", spoil(path, turn.draw, way), turn.artefact_of(path))
        turn.settle()
    assert [each.outcome for each in turn.injected if each.kind == "damage"] == ["error", "error"]


@pytest.mark.slow
def test_a_bad_day_ends_in_the_quiet_numbers(make_bench: Callable[..., Bench]) -> None:
    run(Round(make_bench("method=finetune", "seed=0", "task=class"), SEED, "one"), a_bad_day)


@pytest.mark.nightly
@pytest.mark.skipif(
    not FAULTS,
    reason="set SPEECHFORGET_FAULTS to a number of faults; tests/distributed/test_ranks.py kills a rank, too",
)
def test_a_rank_that_is_killed_or_stopped_costs_a_repetition(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("only=original", "seed=0")
    turn = Round(bench, SEED, "ranks")
    run(turn, signals, 1, ["SIGKILL of a rank"], "*/*/checkpoint.ckpt")
    assert [each.kind for each in turn.injected if each.kind.startswith("SIG")] == ["SIGKILL of a rank"]


def table(injected: list[Injected]) -> str:
    """Format how many faults of each kind there were, and how they ended."""
    counts = Counter((kind, each.outcome) for each in injected for kind in (each.kind, "~ all"))
    head = f"{'fault':28} injected  quiet numbers again  clear error first  not needed, found by verify  failed"
    lines = []
    for kind in sorted({kind for kind, _ in counts}):
        quiet, error, found, failed = (counts[kind, outcome] for outcome in ("quiet", "error", "verify", "failed"))
        lines.append(f"{kind:28} {quiet + error + found + failed:8}  {quiet:19}  {error:17}  {found:27}  {failed:6}")
    return "\n".join([head, *lines])


@pytest.mark.nightly
@pytest.mark.skipif(not FAULTS, reason="set SPEECHFORGET_FAULTS to a number of faults")
def test_hundreds_of_faults(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("method=finetune,random_label", "seed=0,1", "task=class")
    failures: list[str] = []
    seed = SEED
    print(f"\nfaults: {FAULTS}, seed: {SEED}", flush=True)
    while len(bench.injected) < FAULTS:
        begun = time.monotonic()
        try:
            random_round(bench, seed)
        except FaultError as error:
            failures.append(str(error))
            print(f"FAILED {error}", flush=True)
        print(
            f"round {seed}: {len(bench.injected)} faults so far, {bench.rounds[-1]}, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        seed += 1
    print(f"{table(bench.injected)}\nrounds: {seed - SEED}, failed: {len(failures)}", flush=True)
    assert not failures, "\n\n".join(failures)
