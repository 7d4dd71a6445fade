"""Compare two processes with one: the same artefacts under the same keys, and the same numbers up to rounding."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support.facts import ONE_OF_EACH
from support.tiny import RETRAINED

from speechforget.distributed import group
from speechforget.errors import RankError
from speechforget.pipeline import Pipeline
from speechforget.stages.score_files import read_scores
from speechforget.store import Store

CONF = Path(__file__).parents[2] / "conf" / "method"
METHODS = sorted({path.stem for path in CONF.glob("*.yaml")} - RETRAINED)  # these have tests of their own
# The model keeps its dropout.
EXACT = ["trainer.precision=64-true", "train.epochs=2"]
SCRUB = ["method=scrub", "method.rewind=true", "method.clip=0.1", "method.forget_batch_norm=train"]
# Every kind of plan, with the options that need most communication; and a method that trains a weight of its own.
FAST = [
    ("influence", ["task=sample"]),
    ("scrub", ["task=class", *SCRUB[1:]]),
    ("salun", ["task=sample"]),
    ("munba", ["task=sample", "method.curriculum=superloss"]),
    ("sfron", ["task=class", "method.blend=0.7", "method.hard_mask=false", "method.every=2", "method.optimizers=two"]),
    ("unsir", ["task=class", "method.order=sequential", "method.impair_batch_norm=train"]),
    ("boundary_expand", ["task=sample", "method.clip=0.1", "method.batch_norm=train"]),
]
SLOW = [FAST[0]]  # over ten seconds
# Options that differ from the yamls, for both kinds of request.
VARIANTS = [
    *[(method, []) for method in METHODS],
    ("scrub", SCRUB[1:]),
    ("scrub", ["method.optimizers=two"]),
    ("random_label", ["method.order=sequential"]),
    ("salun", ["method.order=sequential"]),
    ("jit", ["method.clamp=true", "method.reduction=sum", "method.batch_norm=train"]),
    ("unsir", ["method.order=sequential", "method.impair_batch_norm=train"]),
    ("unsir", ["method.impair_batch_norm=train"]),
    ("unsir_samples", ["method.impair_batch_norm=train", "method.noise_steps=2"]),
    ("amun", ["method.retain=false", "method.batch_norm=batch"]),
    ("boundary_expand", ["method.clip=0.1", "method.batch_norm=train"]),
    ("sfron", ["method.blend=0.7", "method.hard_mask=false", "method.every=2"]),
    ("negative_gradient", ["method.curriculum=superloss"]),
]


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    """Keep the workers for all tests of this module, and close them afterwards."""
    yield
    group.close_team()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the output folder of the runs with one process and with two."""
    return {devices: tmp_path_factory.mktemp(f"devices{devices}") for devices in (1, 2)}


def run(configure: Callable[..., dict[str, Any]], place: Path, devices: int, *overrides: str) -> Pipeline:
    config = configure(f"output={place}", f"trainer.devices={devices}", *overrides)
    pipeline = Pipeline(config, Store(place))
    pipeline.run()
    return pipeline


def weights(place: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Load all models below an output folder, by the name of their folder (which holds the key)."""
    return {
        str(path.parent.relative_to(place)): load_file(path) for path in sorted(place.glob("*/*/weights.safetensors"))
    }


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Compute the largest difference of two models, relative to the largest weight of each tensor."""
    assert one.keys() == other.keys()
    gaps = [
        float((one[name].double() - other[name].double()).abs().max() / one[name].double().abs().max().clamp(min=1e-3))
        for name in one
    ]
    return max(gaps)


def requested() -> list:
    """Return the cases of `FAST`, and at night each variant with each kind of request that it is defined for."""
    nightly = [
        (method, [f"task={kind}", *changes])
        for method, changes in VARIANTS
        for kind in OmegaConf.load(CONF / f"{method}.yaml").requests
    ]
    chosen = [(case, [pytest.mark.slow] if case in SLOW else []) for case in FAST]
    chosen += [(case, [pytest.mark.nightly]) for case in nightly if case not in FAST]
    return [
        pytest.param(method, changes, id=" ".join([method, *changes]), marks=marks)
        for (method, changes), marks in chosen
    ]


def test_the_fast_cases_have_every_kind_of_plan() -> None:
    assert set(ONE_OF_EACH) <= {method for method, _ in FAST}


@pytest.mark.parametrize(("method", "changes"), requested())
def test_two_processes_make_what_one_makes(method: str, changes: list[str], configure, places: dict[int, Path]) -> None:
    compared = set(places[1].glob("*/*"))
    for devices, place in places.items():
        run(configure, place, devices, *EXACT, f"method={method}", *changes)
    alone, together = (weights(place) for place in places.values())
    assert alone.keys() == together.keys()
    for folder in alone:
        if places[1] / folder not in compared:
            assert furthest(alone[folder], together[folder]) < 1e-9, folder
    for folder in set(places[1].glob("scores/*/")) - compared:
        one, other = (read_scores(path) for path in (folder, places[2] / folder.relative_to(places[1])))
        assert np.array_equal(one["row"], other["row"]) and np.array_equal(one["label"], other["label"])
        np.testing.assert_allclose(other["logits"], one["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "devices", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.nightly)]
)
def test_a_request_smaller_than_the_number_of_processes_is_shared_right(
    devices: int, configure, tmp_path: Path
) -> None:
    """Every rank computes a step that is too small to share; statistics and gradients are still the batch's."""
    exact = [*EXACT[:1], "train.epochs=1", "train.batch_size=7"]
    changes = ["task=sample", "task.by=ids", "method=scrub", "method.forget_batch_norm=train", "method.clip=0.5"]
    ids = tmp_path / "ids.txt"
    for count in {1, devices - 1}:
        alone = configure(f"output={tmp_path / 'alone'}", *exact)
        names = Pipeline(alone, Store(tmp_path / "alone")).data
        ids.write_text("\n".join(names.table["id"].to_numpy()[names.rows("train")[:count]]) + "\n")
        for processes, name in ((1, "alone"), (devices, "together")):
            run(configure, tmp_path / name, processes, *exact, *changes, f"task.ids={ids}")
    one, many = weights(tmp_path / "alone"), weights(tmp_path / "together")
    assert one.keys() == many.keys()
    assert max(furthest(one[folder], many[folder]) for folder in one) < 1e-9


@pytest.mark.slow
def test_a_first_step_in_single_precision_agrees(configure, tmp_path: Path) -> None:
    """Test one step only: later steps drift with any change in the order of sums."""
    changes = ["train.epochs=1", "train.batch_size=100000", "method=none"]
    for devices in (1, 2):
        run(configure, tmp_path / str(devices), devices, *changes)
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert one.keys() == two.keys()
    assert max(furthest(one[folder], two[folder]) for folder in one) < 1e-5


def test_costs_are_counted_over_all_processes(configure, places: dict[int, Path]) -> None:
    """Count the same sample passes for any number of processes, and record that number."""
    costs = []
    for devices, place in places.items():
        pipeline = run(configure, place, devices, *EXACT, "task=class", *SCRUB)
        cost = pipeline.unlearn(pipeline.train("original")).cost
        assert cost["machine"]["ranks"] == devices
        costs.append((cost["forward"], cost["forward_backward"]))
    assert costs[0] == costs[1]


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_is_equal_to_the_bit(configure, tmp_path: Path) -> None:
    """Kill a rank between two epochs, and let the next team resume from the checkpoint."""
    whole = run(configure, tmp_path / "whole", 2, "method=scrub")
    config = configure(f"output={tmp_path / 'broken'}", "trainer.devices=2", "method=scrub")
    pipeline = Pipeline(config, Store(tmp_path / "broken"))
    stop = threading.Event()

    def kill_a_rank() -> None:
        while not stop.is_set():
            if (
                list((tmp_path / "broken").glob("*/*/checkpoint.ckpt"))
                and group._team is not None
                and group._team.processes
            ):
                group._team.processes[1].kill()
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_a_rank)
    killer.start()
    try:
        with pytest.raises(RankError, match=r"rank 1 .* failed: killed by SIGKILL"):
            pipeline.train("original")
    finally:
        stop.set()
        killer.join()
    Pipeline(config, Store(tmp_path / "broken")).run()
    assert whole.config["seed"] == config["seed"]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[folder][name]) for folder in first for name, tensor in first[folder].items())


@pytest.mark.slow
def test_several_processes_train_in_mixed_precision_and_with_a_logger(configure, tmp_path: Path) -> None:
    run(
        configure,
        tmp_path,
        2,
        "trainer.precision=bf16-mixed",
        "logger=csv",
        "method=scrub",
        "method.rewind=true",
        "train.epochs=1",
    )
    (curves,) = tmp_path.glob("original/*/csv/metrics.csv")
    assert "validation/accuracy" in curves.read_text() and "train/loss" in curves.read_text()
