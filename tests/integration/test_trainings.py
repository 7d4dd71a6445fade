"""Several trained models are ordinary artefacts: one key each, found by a run, planned, and trained by any ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speechforget.cli.plan import Costs, Planner
from speechforget.distributed.group import close_team
from speechforget.pipeline import Pipeline
from speechforget.stages import train_many
from speechforget.stages.trainings import Training, make_trainings
from speechforget.store import Artefact, Store

Configure = Callable[..., dict[str, Any]]
FEW = ["trainer.precision=64-true", "trainer.threads=1"]


def trainings(pipeline: Pipeline) -> list[Training]:
    """The original of a run, another seed of it, and two that miss every tenth row."""
    rows = pipeline.data.rows("train")
    own = [(rows, None, 0), (rows, None, 1)]
    own += [(np.delete(rows, np.s_[start::10]), f"part {start}", 2) for start in (0, 1)]
    words = "-".join(pipeline.words)
    return [Training("original", f"{words}-seed{seed}", without, part, seed, "original") for part, without, seed in own]


def made(pipeline: Pipeline) -> list[Artefact]:
    pipeline.data  # noqa: B018  (makes `dataset.seconds` a number)
    return make_trainings(pipeline.store, pipeline.config, pipeline.data, trainings(pipeline))


def test_trained_together_they_are_what_runs_find(configure: Configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path / 'together'}", *FEW, "trainer.stacked=4")
    store = Store.of(config)
    together = made(Pipeline(config, store))
    assert all(artefact.built for artefact in together)
    found = Pipeline(config, store).train("original")
    assert found.key == together[0].key and not found.built
    assert [artefact.built for artefact in made(Pipeline(config, store))] == [False] * 4
    weights = [load_file(artefact.folder / "weights.safetensors") for artefact in together]
    assert len({float(own["head.weight"].sum()) for own in weights}) == 4
    alone = configure(f"output={tmp_path / 'alone'}", f"cache={tmp_path / 'together' / 'cache'}", *FEW)
    original = Pipeline({**alone, "seed": 1}, Store.of(alone)).train("original")
    assert original.key == together[1].key
    for name, tensor in load_file(original.folder / "weights.safetensors").items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-9, atol=1e-9)


def test_a_plan_lists_all_of_them_and_makes_none(configure: Configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path}", *FEW)
    planner = Planner(Store.of(config), Costs(tmp_path), Store(tmp_path / "scratch"))
    planned = made(Pipeline(config, planner))
    assert [(one.stage, one.state) for one in planner.planned[1:]] == [("original", "missing")] * 4
    assert len({artefact.key for artefact in planned}) == 4
    assert not (tmp_path / "original").exists()


@pytest.mark.slow
def test_two_ranks_train_them_one_by_one(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_many, "train_many", lambda *_: pytest.fail("trained together"))
    several = configure(f"output={tmp_path / 'ranks'}", *FEW, "trainer.devices=2")
    try:
        ranks = made(Pipeline(several, Store.of(several)))
    finally:
        close_team()
    monkeypatch.undo()
    config = configure(f"output={tmp_path / 'one'}", f"cache={tmp_path / 'ranks' / 'cache'}", *FEW)
    for one, two in zip(ranks, made(Pipeline(config, Store.of(config))), strict=True):
        assert one.key == two.key
        first, second = (load_file(artefact.folder / "weights.safetensors") for artefact in (one, two))
        for name, tensor in first.items():
            torch.testing.assert_close(tensor, second[name], rtol=1e-9, atol=1e-9)
