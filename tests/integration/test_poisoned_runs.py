"""A request is priced and its alignment measured in every model, and a poisoned one is chosen from a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechforget.attacks.alignment import NAMES
from speechforget.cli.poison import main
from speechforget.config.validate import check
from speechforget.pipeline import Pipeline
from speechforget.store import Store


@pytest.mark.slow
def test_a_request_is_priced_and_a_poisoned_one_is_chosen(
    configure: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"output={tmp_path / 'outputs'}"
    asked = ["task=sample", "task.percent=10", "evaluation=poisoned", "train.epochs=3", "method=finetune", output]
    config = configure(*asked)
    check(config)
    made = Pipeline(config, Store.of(config)).result()
    found = json.loads((made.folder / "result.json").read_text())["comparison"]
    for model in ("original", "oracle", "unlearned"):
        for name in NAMES:
            assert found[model][name]["value"] is not None and 1 / 40 <= found[model][f"{name}_p"]["value"] <= 1
    assert found["original"]["damage_test"]["value"] == 0 and found["unlearned"]["damage_test"]["count"] > 0
    ids = tmp_path / "poisoned.txt"
    assert main([str(made.folder), str(ids), "--percent", "20"]) == 0
    said, listed = capsys.readouterr().out, ids.read_text().split()
    assert f"{len(listed)} of" in said and "of a random request" in said
    again = configure("task=sample", "task.by=ids", f"task.ids={ids}", output)
    pipeline = Pipeline(again, Store.of(again))
    assert sorted(pipeline.data.table["id"].iloc[pipeline.request.forget]) == sorted(listed)
