"""Listed recordings that no model was trained on: they are in no metric, in no validation set, and in the keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages import compare, score_files
from speechforget.stages.record import describe_result
from speechforget.stages.sources import make_sources
from speechforget.store import Artefact, Store

Configure = Callable[..., dict[str, Any]]


def asked(configure: Configure, folder: Path, words: str, ids: list[str]) -> Pipeline:
    (folder / f"{words}.txt").write_text("".join(f"{identity}\n" for identity in ids))
    return Pipeline(
        configure("task=sample", "task.by=ids", f"task.ids={folder / words}.txt", f"output={folder}"), Store(folder)
    )


@pytest.fixture
def person(configure: Configure, tmp_path: Path) -> Pipeline:
    table = asked(configure, tmp_path, "none", []).data.table
    return asked(configure, tmp_path, "person", table["id"][table["speaker"] == "speaker1"].tolist())


def test_withdrawn_recordings_are_in_no_subset_of_any_model(person: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    data, request = person.data, person.request
    rows = np.arange(len(data.table))
    columns = {
        "row": rows,
        "label": data.numbers,
        "logits": np.eye(len(data.classes))[data.numbers],
        "loss": rows * 1.0,
        "embedding": rows[:, None],
    }
    monkeypatch.setattr(score_files, "read_scores", lambda _: columns)
    artefacts = {name: Artefact(Path(name), name, built=False) for name in ("original", "oracle", "unlearned")}
    monkeypatch.setattr(Artefact, "cost", {"seconds": 1.0})
    tables = compare.join(data, request, artefacts, artefacts, 0)
    mine = set(np.flatnonzero(data.table["speaker"] == "speaker1"))
    assert mine == {*request.forget, *request.withdrawn} and len(request.withdrawn) > 5
    subsets = tables.subsets()
    for scores in (tables.original, tables.oracle, tables.unlearned):
        assert set(scores.loss[subsets["forget"]]) == set(request.forget)
        others = set.union(*(set(scores.loss[mask]) for name, mask in subsets.items() if name != "forget"))
        assert others == set(rows) - mine and set(scores.loss) == set(rows) - set(request.withdrawn)


def test_withdrawn_recordings_validate_nothing(person: Pipeline) -> None:
    sources = make_sources(person.config, person.data, person.request)
    validation = set(person.data.rows("validation"))
    assert validation & set(person.request.withdrawn)
    for name in ("validation", "validation_request", "forget", "retain", "train"):
        assert not set(sources.rows[name]) & set(person.request.withdrawn)
    assert set(sources.rows["validation"]) == validation - set(person.request.withdrawn)


def test_what_is_withdrawn_is_in_the_keys_and_in_the_record(
    person: Pipeline, configure: Configure, tmp_path: Path
) -> None:
    table, request = person.data.table, person.request
    trained = asked(configure, tmp_path, "trained", table["id"].iloc[request.forget].tolist())
    assert np.array_equal(trained.request.forget, request.forget) and not len(trained.request.withdrawn)
    assert trained.forgotten_ids != person.forgotten_ids
    record = describe_result(person.config, person.data, request, {}, None, None)
    assert record["request"]["withdrawn"] == len(request.withdrawn) and record["request"]["matched"] == request.matched
    assert any(f"{len(request.withdrawn)} listed recordings were not trained on" in note for note in record["notes"])
    other = describe_result(trained.config, trained.data, trained.request, {}, None, None)
    assert request.matched in record["notes"] and trained.request.matched in other["notes"]


def test_a_request_without_sense_is_refused_before_anything_is_trained(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "train", lambda *_: pytest.fail("trained"))
    for override in ("task.classes=[nan]", "task.classes=[null]"):
        with pytest.raises(UserError, match="in quotes"):
            Pipeline(configure("task=class", override, f"output={tmp_path}"), Store(tmp_path)).run()
