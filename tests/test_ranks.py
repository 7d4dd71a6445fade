"""Two processes against one: the same artefacts under the same keys, and the same numbers as far as arithmetic allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speechforget import team
from speechforget.pipeline import Pipeline
from speechforget.store import Store

METHODS = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))
EXACT = ["trainer.precision=64-true", "model.dropout=0", "train.epochs=2"]
# What a yaml does not say but a user can.
VARIANTS = [
    *[(method, []) for method in METHODS],
    ("scrub", ["method.rewind=true", "method.clip=0.1", "method.forget_batch_norm=train"]),
    ("random_label", ["method.order=joint"]),
    ("salun", ["method.order=joint"]),
]


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    """Workers stay for all tests here and go afterwards."""
    yield
    team.close_team()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Where runs with so many processes leave their artefacts."""
    return {devices: tmp_path_factory.mktemp(f"devices{devices}") for devices in (1, 2)}


def run(configure: Callable[..., dict[str, Any]], place: Path, devices: int, *overrides: str) -> Pipeline:
    config = configure(f"output={place}", f"trainer.devices={devices}", *overrides)
    pipeline = Pipeline(config, Store(place))
    pipeline.run()
    return pipeline


def weights(place: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All models below an output folder, by the folder's name (which holds the key)."""
    return {str(path.parent.relative_to(place)): load_file(path) for path in sorted(place.glob("*/*/weights.safetensors"))}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two models, relative to the largest weight of each tensor."""
    assert one.keys() == other.keys()
    gaps = [float((one[name].double() - other[name].double()).abs().max() / one[name].double().abs().max().clamp(min=1e-3)) for name in one]
    return max(gaps)


@pytest.mark.parametrize("request_", ["task=class", "task=sample"])
@pytest.mark.parametrize(("method", "changes"), VARIANTS, ids=[f"{method}{''.join(changes)}" for method, changes in VARIANTS])
def test_two_processes_make_what_one_makes(method: str, changes: list[str], request_: str, configure, places: dict[int, Path]) -> None:
    for devices, place in places.items():
        run(configure, place, devices, *EXACT, request_, f"method={method}", *changes)
    alone, together = (weights(place) for place in places.values())
    assert alone.keys() == together.keys()
    for folder in alone:
        assert furthest(alone[folder], together[folder]) < 1e-9, folder
    for path in places[1].glob("scores/*/scores.npz"):
        with np.load(path) as one, np.load(places[2] / path.relative_to(places[1])) as other:
            assert np.array_equal(one["row"], other["row"]) and np.array_equal(one["label"], other["label"])
            np.testing.assert_allclose(other["logits"], one["logits"], atol=1e-5)
