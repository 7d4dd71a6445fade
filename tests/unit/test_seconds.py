"""`dataset.seconds`: cropped recordings are warned of, and `auto` is a number before anything is built."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speechforget.cli.plan import plan
from speechforget.config.seconds import rounded_up, with_seconds
from speechforget.config.validate import check_dataset
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Store


def config(seconds: Any) -> dict[str, Any]:
    return {"dataset": {"name": "clinic", "seconds": seconds}, "seed": 0}


@pytest.mark.parametrize(
    ("lengths", "asked", "used", "said"),
    [
        (
            [1.0] * 88 + [2.05] * 12,
            1.0,
            1.0,
            "12 % of the recordings are longer than the 1 s used, and are cropped: dataset.seconds=2.1 uses all",
        ),
        (
            [1.0] * 995 + [9.97] * 5,
            1.0,
            1.0,
            "0.5 % of the recordings are longer than the 1 s used, and are cropped: dataset.seconds=10 uses all",
        ),
        ([1.0] * 10, 1.0, 1.0, ""),
        ([0.6] * 10, "auto", 0.6, "clinic: dataset.seconds=auto is 0.6"),
        ([1.0] * 985 + [1.31] * 10 + [7.0] * 5, "auto", 1.4, "0.5 % of the recordings are longer than the 1.4 s used"),
        ([0.04, 0.05], "auto", 0.1, ""),
        ([0.5] * 72 + [20.0], "auto", 20.0, "a few long recordings make every input 20 s long"),
    ],
)
def test_the_share_that_is_cropped_is_said(
    lengths: list[float], asked: Any, used: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = config(asked)
    found = with_seconds(given, pd.Series(lengths))
    assert found["dataset"]["seconds"] == used and given == config(asked)
    assert said in caplog.text and (said or "longer" not in caplog.text)


def test_auto_covers_99_percent_and_keeps_lengths_that_are_even_tenths() -> None:
    lengths = pd.Series(np.random.default_rng(0).gamma(3.0, 1.0, 5000))
    used = with_seconds(config("auto"), lengths)["dataset"]["seconds"]
    assert 0.99 <= (lengths <= used).mean() < 0.995
    assert [rounded_up(tenth / 10) for tenth in range(1, 100)] == [tenth / 10 for tenth in range(1, 100)]
    with pytest.raises(UserError, match="set a number, up to 600"):
        with_seconds(config("auto"), pd.Series([700.0] * 3))


def test_auto_is_the_default_of_folders_and_a_number_in_keys_orders_and_records(
    configure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    asked = configure(
        f"output={tmp_path}", "dataset.seconds=auto", "dataset.name=clinic", "train.epochs=1", "only=original"
    )
    pipeline = Pipeline(asked, Store(tmp_path, "flock"))
    assert pipeline.hearing["seconds"] == pipeline.dataset["seconds"] == pipeline.config["dataset"]["seconds"] == 0.5
    made = pipeline.train("original")
    assert json.loads((made.folder / "model.json").read_text())["seconds"] == 0.5
    assert pipeline.made_from[made.key][1]["hearing"]["seconds"] == 0.5 and "clinic" in made.folder.name
    same = {**asked, "dataset": {**asked["dataset"], "seconds": 0.5}}
    assert [planned.key for planned in plan(same)] == [planned.key for planned in plan(asked)] and all(
        each.exists for each in plan(asked)
    )
    for wrong in ("most", 0, True):
        with pytest.raises(UserError, match=r"number from 0\.01 to 600, or auto"):
            check_dataset({**asked["dataset"], "seconds": wrong})
    with pytest.raises(
        UserError,
        match=r"clinic has no option dataset.corpus.words: there are .*manifest.*; an experiment that sets it is",
    ):
        check_dataset({**asked["dataset"], "corpus": {**asked["dataset"]["corpus"], "words": ["yes"]}})


def test_long_transcripts_are_needed_whole_and_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    given = config("auto")
    given["dataset"]["label"] = "text"
    assert with_seconds(given, pd.Series([0.5] * 72 + [20.0]))["dataset"]["seconds"] == 20.0
    assert not caplog.records
