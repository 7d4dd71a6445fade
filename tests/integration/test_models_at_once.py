"""The models of an audit that train at once are ordinary artefacts: one key each, and what a run would train alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speechforget.config.evaluation import trainings
from speechforget.distributed.group import close_team
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages import train_many
from speechforget.store import Artefact, Store

Configure = Callable[..., dict[str, Any]]
ASKED = ["task=sample", "task.percent=20", "evaluation=audit", "evaluation.pairs=4", "evaluation.oracles=4"]
ASKED += ["train.epochs=2", "trainer.precision=64-true"]
NAMES = ["original", "oracle", "original-pair0a", "original-pair0b", "oracle-pool0", "oracle-pool1"]


def made(config: dict[str, Any], *names: str) -> dict[str, Artefact]:
    return Pipeline(config, Store.of(config)).train_all(names)


def check_equal(one: dict[str, Artefact], two: dict[str, Artefact], *names: str) -> None:
    for name in names:
        assert one[name].key == two[name].key
        first, second = (load_file(each[name].folder / "weights.safetensors") for each in (one, two))
        for tensor in first:
            torch.testing.assert_close(first[tensor], second[tensor], rtol=1e-9, atol=1e-9)


def test_at_once_they_are_what_each_is_alone(configure: Configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path / 'once'}", *ASKED, "trainer.stacked=4")
    once = made(config, *NAMES)
    assert all(artefact.built for artefact in once.values())
    machines = [artefact.cost["machine"].get("together", 1) for artefact in once.values()]
    assert max(machines) > 1
    again = made(config, *NAMES)
    assert not any(artefact.built for artefact in again.values())
    alone = configure(f"output={tmp_path / 'alone'}", f"cache={tmp_path / 'once' / 'cache'}", *ASKED)
    pipeline = Pipeline(alone, Store.of(alone))
    single = {name: pipeline.train(name) for name in NAMES}
    assert all(artefact.built for artefact in single.values())
    check_equal(once, single, *NAMES)
    curves = [(each["original-pair0a"].folder / "curves.csv").read_text().splitlines() for each in (once, single)]
    assert curves[0][0] == curves[1][0] and len(curves[0]) == len(curves[1]) == 3


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


def test_options_that_do_not_fit_are_one_sentence_before_any_is_trained(configure, tmp_path: Path) -> None:
    pipeline = Pipeline(configure(f"output={tmp_path}", "evaluation=full", "model.kernel=4"), Store(tmp_path))
    with pytest.raises(UserError, match="model=tcresnet cannot be run"):
        pipeline.train_all(list(trainings(pipeline.config)))
    assert not list(tmp_path.glob("o*/*/DONE"))
