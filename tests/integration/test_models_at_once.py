"""The models of an audit that train at once are ordinary artefacts: one key each, and what a run would train alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speechforget.config.evaluation import trainings
from speechforget.distributed.group import close_team
from speechforget.pipeline import Pipeline
from speechforget.stages import train_many
from speechforget.store import Store

Configure = Callable[..., dict[str, Any]]
ASKED = ["task=sample", "task.percent=20", "evaluation=audit", "evaluation.pairs=4", "evaluation.oracles=4"]
ASKED += ["train.epochs=2", "trainer.precision=64-true"]
NAMES = ["original", "oracle", "original-pair0a", "original-pair0b", "oracle-pool0", "oracle-pool1"]


def made(config: dict[str, Any], *names: str) -> Pipeline:
    pipeline = Pipeline(config, Store.of(config))
    pipeline.train_several(names)
    return pipeline


def check_equal(one: Pipeline, two: Pipeline, *names: str) -> None:
    for name in names:
        assert one.models[name].key == two.models[name].key
        first, second = (load_file(each.models[name].folder / "weights.safetensors") for each in (one, two))
        for tensor in first:
            torch.testing.assert_close(first[tensor], second[tensor], rtol=1e-9, atol=1e-9)


def test_at_once_they_are_what_each_is_alone(configure: Configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path / 'once'}", *ASKED, "trainer.stacked=4")
    once = made(config, *NAMES)
    assert all(artefact.built for artefact in once.models.values())
    machines = [artefact.cost["machine"].get("together", 1) for artefact in once.models.values()]
    assert max(machines) > 1
    again = made(config, *NAMES)
    assert not any(artefact.built for artefact in again.models.values())
    alone = configure(f"output={tmp_path / 'alone'}", f"cache={tmp_path / 'once' / 'cache'}", *ASKED)
    single = Pipeline(alone, Store.of(alone))
    for name in NAMES:
        assert single.train(name).built
    check_equal(once, single, *NAMES)
    assert once.made_from == single.made_from and once.trained == single.trained
    for name in NAMES:
        records = [json.loads((each.models[name].folder / "about.json").read_text()) for each in (once, single)]
        assert records[0]["config"]["seed"] == records[1]["config"]["seed"]


def test_a_run_asks_for_all_its_models_at_once(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"output={tmp_path}", *ASKED)
    asked: list[int] = []

    def stop(jobs: list[Any], *_: Any) -> None:
        asked.append(len(jobs))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_many, "train_many", stop)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(config, Store.of(config)).result()
    assert asked == [len(trainings(config))] == [1 + 4 + 8 + 4]
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_two_ranks_train_each_model_by_itself(configure: Configure, tmp_path: Path) -> None:
    names = NAMES[2:5]
    try:
        ranks = made(configure(f"output={tmp_path / 'ranks'}", *ASKED, "trainer.devices=2"), *names)
    finally:
        close_team()
    alone = made(configure(f"output={tmp_path / 'one'}", f"cache={tmp_path / 'ranks' / 'cache'}", *ASKED), *names)
    check_equal(ranks, alone, *names)
