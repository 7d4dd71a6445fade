"""What a tracker is told of a result: curves beside the oracle's level, numbers, charts, lineage, and no names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import default_config, make_result
from support.results import comparison, record
from support.score_tables import make_tables

from speechforget.record.folders import Outputs
from speechforget.report.charts.across import mean_gap
from speechforget.report.charts.models import MOST_IN_MATRIX, confusion_matrix
from speechforget.report.charts.names import Names
from speechforget.report.charts.scene import Scene, make_scene
from speechforget.report.record import with_verdict
from speechforget.report.tracked import headline, scalars, summary
from speechforget.stages.curve_rows import FEWEST, curve_rows
from speechforget.stages.joined import read_joined
from speechforget.stages.tracked import passes, tracked
from speechforget.store import write_json
from speechforget.tracking.hiding import hidden
from speechforget.tracking.lineage import artifacts
from speechforget.tracking.tracker import Comparison, Run

KEY = "0123456789ab" + "c" * 52


@given(st.integers(0, 500), st.integers(0, 900), st.integers(0, 3))
def test_a_curve_is_measured_on_all_of_forget_and_on_a_sample_of_retain(forget: int, retain: int, seed: int) -> None:
    every = np.arange(forget + retain)
    rows = {"forget": every[:forget], "retain": every[forget:], "validation": every[:0], "test": every}
    found = curve_rows(rows, seed)
    assert set(found) == {name for name, count in (("forget", forget), ("retain", retain)) if count}
    assert forget == len(found.get("forget", ()))
    sample = found.get("retain", every[:0])
    assert len(sample) == min(retain, max(forget, FEWEST)) and set(sample) <= set(rows["retain"])
    assert (np.diff(sample) > 0).all() and np.array_equal(sample, curve_rows(rows, seed).get("retain", every[:0]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_result(tmp_path_factory.mktemp("tracked"), kind="class")


def shown(folder: Path, **logger: Any) -> Comparison:
    joined = read_joined(Outputs(folder.parents[1]), folder)
    config = {**default_config(), "logger": {**default_config()["logger"], **logger}}
    return tracked(folder, config, joined.data, joined.request, joined.models, joined.result, joined.tables)


def test_the_curve_starts_at_the_original_and_has_the_oracles_level_beside(made: Path) -> None:
    rows = shown(made).passes
    told = json.loads((made / "result.json").read_text())["comparison"]
    assert [row["pass/number"] for row in rows] == [0, 1]
    for name in ("forget", "retain", "validation"):
        for row, model in zip(rows, ("original", "unlearned"), strict=True):
            assert row[f"pass/{name}_accuracy"] == told[model][f"accuracy_{name}"]["value"], name
            assert row[f"pass/{name}_accuracy_oracle"] == told["oracle"][f"accuracy_{name}"]["value"]
    joined = read_joined(Outputs(made.parents[1]), made)
    forget = joined.tables.subsets()["forget"]
    assert rows[0]["pass/forget_loss"] == pytest.approx(joined.tables.original.loss[forget].mean(), abs=1e-6)
    curve = [{"epoch": 0, "step": 3, "unlearn/forget_loss": -1.0, "forget/accuracy": 0.25, "retain/loss": 0.5}]
    (_, after) = passes(joined.data, joined.request, joined.tables, curve, 0)
    assert after["pass/forget_accuracy"] == 0.25 and after["pass/retain_loss"] == 0.5
    assert "pass/validation_accuracy" not in after and after["pass/retain_loss_oracle"] > 0


def test_a_result_shows_its_tables_charts_and_reasons(made: Path) -> None:
    found = shown(made)
    assert {"tables/verdict", "charts/losses", "charts/attack", "confusion/oracle"} <= set(found.sheets)
    for name in ("losses", "attack", "relearning", "layers", "forgotten", "words", "speakers"):
        assert (f"charts/{name}" in found.sheets) != (f"missing/{name}" in found.summary), name
    for name, sheet in found.sheets.items():
        drawn = {column for axis, column in sheet.drawn.items() if axis != "chart"}
        assert drawn <= set(sheet.columns) and all(len(row) == len(sheet.columns) for row in sheet.rows), name
    assert set(found.headline) <= set(found.scalars) | set(found.summary)
    json.dumps([found.scalars, dict(found.summary), found.passes], allow_nan=False)


def figure(model: str, value: float | None) -> dict[str, Any]:
    ends = {"low": 0.4, "high": 0.6, "null_low": 0.45, "null_high": 0.55, "p": None, "reason": ""}
    return {"name": "per_utterance_auc", "model": model, "value": value, **ends} | {
        **{"pairs": 8, "units": 50, "unit": "utterances", "ideal": 0.5, "direction": "x", "question": "request"}
    }


def test_numbers_stand_beside_their_bands_and_nulls() -> None:
    numbers = comparison(unlearned=0.75, oracle=0.9)
    numbers["unlearned"]["accuracy_forget"] |= {"null_low": 0.88, "null_high": 0.92}
    audit = {"figures": [figure("original", 0.9), figure("unlearned", 0.7), figure("oracle", 0.5)]}
    result = {**with_verdict(record(), numbers), "audit": audit}
    told, more = scalars(result), summary(result)
    assert told["ranking/gap"] == pytest.approx(15) and told["ranking/passes"] == 10 + 3 * 30
    assert told["unlearned/accuracy_forget"] == 0.75 and more["gap/accuracy_forget"] == pytest.approx(-0.15)
    assert (more["band/accuracy_forget_low"], more["band/accuracy_forget_high"]) == (0.88, 0.92)
    assert (more["audit/per_utterance_auc"], more["audit_original/per_utterance_auc"]) == (0.7, 0.9)
    assert (more["audit/per_utterance_auc_null_low"], more["audit/per_utterance_auc_null_high"]) == (0.45, 0.55)
    assert "audit/per_utterance_auc_p" not in more and more["verdict/request"] in {"under", "within", "over"} | {
        "too little to tell"
    }
    names = headline([*told, *more])
    assert {"ranking/gap", "audit/per_utterance_auc", "audit/per_utterance_auc_null_low"} <= set(names)
    assert not {"gap/accuracy_forget", "audit/per_utterance_auc_low", "original/accuracy_validation"} & set(names)


def test_a_gap_counts_what_is_measured_and_not_which_side() -> None:
    assert mean_gap({"accuracy_forget": -0.1, "accuracy_retain": 0.3, "accuracy_test": None}) == pytest.approx(20)
    assert mean_gap({"accuracy_test": None, "membership_auc": 0.4}) is None


@pytest.mark.parametrize("classes", [6, MOST_IN_MATRIX + 5])
def test_a_confusion_matrix_counts_every_test_recording_once(classes: int) -> None:
    tables = make_tables("class", 0, 400)
    if classes > MOST_IN_MATRIX:
        wider = np.full((400, classes), -50.0)
        wider[:, :6] = tables.unlearned.logits
        object.__setattr__(tables.unlearned, "logits", wider)
    scene = Scene({}, tables, np.full(400, ""), [f"class{number}" for number in range(classes)], None)
    chart = confusion_matrix(scene, "unlearned")
    counts = {(actual, predicted): count for actual, predicted, count in chart["rows"]}
    assert sum(counts.values()) == (tables.unlearned.role == "test").sum()
    assert len(counts) == min(classes, MOST_IN_MATRIX + 1) ** 2
    test = (tables.unlearned.role == "test") & (tables.unlearned.label == 1)
    assert counts["class1", "class2"] == (tables.unlearned.predicted[test] == 2).sum()


def test_speakers_are_hashed_and_ids_are_not_told(made: Path, tmp_path: Path) -> None:
    tables = read_joined(Outputs(made.parents[1]), made).tables
    hashed = make_scene({}, tables, np.full(len(tables.original.label), ""), "speaker", Names(tmp_path, False))
    assert not set(hashed.classes) & set(tables.classes) and hashed.speakers is not None
    assert not any(name.startswith("speaker") for name in hashed.speakers)
    opened = make_scene({}, tables, np.full(len(tables.original.label), ""), "speaker", Names(tmp_path / "x", True))
    assert list(opened.classes) == list(tables.classes) and not (tmp_path / "x").exists()


def run_of(folder: Path, stage: str, name: str, **config: Any) -> Run:
    (folder / stage / f"{name}-{KEY[:12]}").mkdir(parents=True)
    return Run(folder / stage / f"{name}-{KEY[:12]}", KEY, name, "group", stage, [stage], config)


def test_a_run_is_told_without_people_and_paths(tmp_path: Path) -> None:
    task = {"by": "speaker", "values": ["anna"], "kind": "sample", "classes": None}
    config = {"task": task, "output": "/home/me/outputs", "dataset": {"label": "word", "root": "/home/me/x"}, "seed": 1}
    told = hidden(run_of(tmp_path, "result", "scrub-folder-word-sample-speaker-anna-seed1", **config))
    assert "anna" not in json.dumps([told.name, told.config]) and "/home" not in json.dumps(told.config)
    assert told.name.endswith(KEY[:12]) and told.config["seed"] == 1
    plain = run_of(tmp_path, "result", "scrub-folder-word-class-stop-seed1", **config)
    assert hidden(plain).name == plain.name
    named = {"dataset": {"label": "speaker", "confused": {"classes": ["anna", "ben"]}}, "task": {"classes": ["anna"]}}
    speakers = run_of(
        tmp_path, "oracle", "folder-speaker-tcresnet-class-anna-seed1", **named, original={"labels": {"x": "anna"}}
    )
    assert "anna" not in json.dumps([hidden(speakers).name, hidden(speakers).config])
    assert hidden(speakers).config["task"]["classes"] == "CLASSES"


def finished(tmp_path: Path) -> dict[str, Run]:
    """Make folders of an original, an unlearned model and a result, as a run leaves them."""
    runs = {stage: run_of(tmp_path, stage, "words") for stage in ("original", "unlearned", "result")}
    inputs = {"original": {}, "unlearned": {"original": KEY}}
    inputs["result"] = {"models": {"original": KEY, "unlearned": KEY}, "request": "f" * 64}
    for stage, run in runs.items():
        write_json(run.folder / "inputs.json", {"stage": stage, "inputs": inputs[stage]})
        for name in ("weights.safetensors", "model.json") if stage != "result" else ():
            (run.folder / name).write_text(stage)
    told = record(request={"name": "sample-ids", "forget": 2, "retain": 3, "nonmembers": 1, "withdrawn": 0})
    write_json(runs["result"].folder / "result.json", told)
    (runs["result"].folder / "forget.txt").write_text("anna_1.wav\nanna_2.wav\n")
    return runs


def test_references_tell_what_was_made_of_what_and_no_path(tmp_path: Path) -> None:
    runs = finished(tmp_path)
    found = {stage: artifacts(run, "references", False) for stage, run in runs.items()}
    lineage = {stage: [(each["name"], each["used"]) for each in listed] for stage, listed in found.items()}
    digits = KEY[:12]
    assert lineage["original"] == [(f"original-{digits}", False)]
    assert lineage["unlearned"] == [(f"original-{digits}", True), (f"unlearned-{digits}", False)]
    models = [(f"original-{digits}", True), (f"unlearned-{digits}", True)]
    assert lineage["result"] == [*models, ("request-ffffffffffff", True)]
    made, used = found["original"][0], found["unlearned"][0]
    assert {**made, "used": True} == used  # W&B makes one version of both
    assert str(tmp_path) not in json.dumps(found) and "anna" not in json.dumps(found)
    assert not any(each["files"] for listed in found.values() for each in listed)
    assert not (tmp_path / "record_salt").exists()


def test_files_hold_models_and_hashed_ids_and_open_names_only_if_asked(tmp_path: Path) -> None:
    runs = finished(tmp_path)
    (model,) = artifacts(runs["original"], "files", False)
    assert Path(model["files"]["weights.safetensors"]).read_text() == "original" and not model["references"]
    *_, request = artifacts(runs["result"], "files", False)
    path = Path(request["files"]["request.json"])
    told = json.loads(path.read_text())
    assert len(told["hashes"]) == 2 and "anna" not in path.read_text()
    assert path.is_relative_to(runs["result"].folder / "wandb")  # where a purge looks
    artifacts(runs["result"], "files", True)
    assert json.loads(path.read_text())["ids"]["forget"] == ["anna_1.wav", "anna_2.wav"]


def test_scores_and_splits_have_no_artifacts(tmp_path: Path) -> None:
    run = run_of(tmp_path, "scores", "words")
    assert artifacts(run, "files", False) == []
