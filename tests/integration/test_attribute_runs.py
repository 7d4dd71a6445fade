"""A request for an attribute through the whole pipeline: the eraser is delivered, judged, verified and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speechforget.errors import NotApplicable
from speechforget.models.erased import Erased
from speechforget.models.folder import load_classifier
from speechforget.pipeline import Pipeline
from speechforget.stages.score_files import read_scores
from speechforget.stages.sources import rows_of
from speechforget.store import Store
from speechforget.store.artefacts import Artefact

pytestmark = pytest.mark.slow
ASKED = ["task=attribute", "task.by=voice", "method=leace", "evaluation=attribute", "evaluation.oracles=1"]
ASKED += ["dataset.dependent.column=voice", "dataset.dependent.percent=80", "evaluation.attacks.0.folds=2"]


@pytest.fixture(scope="module")
def manifest(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return overrides for the tones with a column `voice`, high or low, of the speaker."""
    rows = [
        {
            "path": str(path.relative_to(tones)),
            "word": path.parent.name,
            "speaker": (speaker := path.name.partition("_")[0]),
            "voice": "high" if int(speaker[-1]) % 2 else "low",
        }
        for path in sorted(tones.rglob("*.wav"))
    ]
    file = tmp_path_factory.mktemp("manifest") / "table.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return [f"dataset.corpus.manifest={file}", "dataset.corpus.speaker_pattern=null"]


@pytest.fixture(scope="module")
def made(
    manifest: list[str], configure: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, Artefact]:
    """Return one finished run and its pipeline."""
    output = tmp_path_factory.mktemp("attribute")
    pipeline = Pipeline(configure(f"output={output}", *ASKED, *manifest), Store(output))
    return pipeline, pipeline.result()


def test_the_result_says_what_was_asked_and_how_it_went(made: tuple[Pipeline, Artefact]) -> None:
    pipeline, result = made
    told = json.loads((result.folder / "result.json").read_text())
    assert told["task"]["kind"] == "attribute" and told["request"]["attribute"] == "voice"
    assert told["request"]["nonmembers"] == 0 and "The request removes voice" in " ".join(told["notes"])
    values = told["comparison"]["unlearned"]
    for name in ("attribute_gap_test", "attribute_cue_test", "probe_attribute_embedding", "accuracy_test"):
        assert np.isfinite(values[name]["value"]), name
    assert "no non-members" in values["membership_auc"]["reason"] or values["membership_auc"]["value"] is None
    assert (
        values["probe_attribute_embedding"]["value"] <= told["comparison"]["original"]["probe_attribute_max"]["value"]
    )
    heard = pipeline.request
    assert len(heard.counterparts) and told["request"]["counterparts"] == len(heard.counterparts)


def test_the_delivered_model_has_the_eraser_and_nothing_linear_in_training(made: tuple[Pipeline, Artefact]) -> None:
    pipeline, _ = made
    classifier, description = load_classifier(pipeline.unlearned.folder)
    assert isinstance(classifier, Erased) and description["model"]["eraser"] == classifier.eraser.in_features
    columns = read_scores(pipeline.score("unlearned", pipeline.unlearned).folder)
    train = pipeline.data.rows("train")
    x = np.asarray(columns["embedding"][train], dtype=np.float64)
    attribute = pipeline.request.attribute
    assert attribute is not None
    z = np.eye(2)[attribute.numbers[train]]
    between = (x - x.mean(axis=0)).T @ (z - z.mean(axis=0)) / len(x)
    assert abs(between).max() < 1e-4 * abs(x).max()


def test_the_oracle_hears_the_counterparts_and_the_original_does_not(made: tuple[Pipeline, Artefact]) -> None:
    pipeline, _ = made
    rows = rows_of(pipeline.data, pipeline.request)
    assert len(rows["oracle"]) == len(rows["train"])
    assert set(rows["oracle"]) - set(rows["train"]) == set(pipeline.request.counterparts)
    assert pipeline.request.attribute is not None
    numbers, values = pipeline.data.numbers, pipeline.request.attribute.numbers
    original, oracle = (pd.crosstab(numbers[rows[name]], values[rows[name]]) for name in ("train", "oracle"))
    assert (original.max(axis=1) >= 3 * original.min(axis=1)).all() and (abs(oracle[0] - oracle[1]) <= 1).all()


def test_the_numbers_are_computed_again_from_files(made: tuple[Pipeline, Artefact], command: Any) -> None:
    output = made[1].folder.parents[1]
    assert command("report", str(output)).returncode == 0
    assert "recordings and labels stay" in (output / "report.html").read_text(encoding="utf-8")
    checked = command("verify", str(output / "report.html"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_same_run_finds_everything_and_a_second_request_is_refused(
    made: tuple[Pipeline, Artefact], manifest: list[str], configure: Callable[..., dict[str, Any]]
) -> None:
    _, result = made
    output = result.folder.parents[1]
    again = Pipeline(configure(f"output={output}", *ASKED, *manifest), Store(output)).result()
    assert again.folder == result.folder and not again.built
    later = configure(f"output={output}", "task=sample", f"original.result={result.folder}", *manifest)
    with pytest.raises(NotApplicable, match="stands alone"):
        _ = Pipeline(later, Store(output)).request
    unlearned = result.folder.parents[1] / "unlearned"
    later = configure(f"output={output}", "task=sample", f"original.checkpoint={next(unlearned.glob('*/DONE')).parent}")
    with pytest.raises(NotApplicable, match="stands alone"):
        _ = Pipeline(later | {"dataset": configure(*manifest)["dataset"]}, Store(output)).request


def test_adversary_and_projection_run_whole(
    made: tuple[Pipeline, Artefact], manifest: list[str], configure: Callable[..., dict[str, Any]]
) -> None:
    output = made[1].folder.parents[1]
    for name in ("gradient_reversal", "eta_removal", "none"):
        more = ["method.epochs=2"] if name == "gradient_reversal" else []
        config = configure(f"output={output}", *ASKED, *manifest, f"method={name}", *more)
        result = Pipeline(config, Store(output)).result()
        assert json.loads((result.folder / "result.json").read_text())["method"] == name
    assert len([each for each in (output / "oracle").iterdir() if each.is_dir()]) == 1  # which all methods share
