"""Transcripts as labels, from recordings to result: what is scored, what is matched, what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import spoken_tones
from support.made_corpora import MakeCorpus

from speechforget.cli.classify import main as classify
from speechforget.config.transcripts import check_labels
from speechforget.config.tried import untried
from speechforget.config.validate import check
from speechforget.data.transcripts import OTHER, SAID
from speechforget.errors import NotApplicable, UserError
from speechforget.evaluation.tables import Tables
from speechforget.export.model_folder import export
from speechforget.inference import load
from speechforget.pipeline import Pipeline
from speechforget.record.folders import Outputs
from speechforget.report.charts.across import mean_gap
from speechforget.report.plot import comparison_plot
from speechforget.stages.joined import read_tables
from speechforget.stages.score_files import read_scores
from speechforget.store import Artefact, Store

PAGE = Path(__file__).parents[2] / "docs" / "speech_recognition.md"
CONF = Path(__file__).parents[2] / "conf" / "method"
Configure = Callable[..., dict[str, Any]]
METHODS = sorted(path.stem for path in CONF.glob("*.yaml") if "text" in OmegaConf.load(path).get("labels", []))
# One method each for passes over forget and retain, over pairs, over a mix, and for none; the others run at night.
USUAL = ("scrub", "negative_gradient", "bad_teaching", "ssd")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken_tones.write(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def texts(configure: Configure, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Return texts(overrides ...): the config of a small run on transcripts, all in one store."""
    output = tmp_path_factory.mktemp("texts")

    def make(*overrides: str) -> dict[str, Any]:
        own = [f"dataset.root={recordings}", f"output={output}", "task.percent=20"]
        config = configure(*spoken_tones.OPTIONS, *own, *overrides)
        config["dataset"]["corpus"].pop("speaker_pattern", None)
        return config

    return make


def run(config: dict[str, Any]) -> Pipeline:
    check(config)
    return Pipeline(config, Store(Path(config["output"])))


@pytest.fixture(scope="module")
def made(texts: Configure) -> tuple[Pipeline, Artefact]:
    pipeline = run(texts("method=scrub"))
    return pipeline, pipeline.result()


@pytest.fixture(scope="module")
def tables(made: tuple[Pipeline, Artefact]) -> Tables:
    pipeline, result = made
    return read_tables(Outputs(Path(pipeline.config["output"])), result.folder)[0]


def test_the_model_learns_to_write_what_is_said(made: tuple[Pipeline, Artefact], recordings: Path) -> None:
    pipeline, result = made
    found = json.loads((result.folder / "result.json").read_text())["comparison"]
    assert found["original"]["character_error_rate_retain"]["value"] < 0.3
    assert pipeline.data.outputs == ["", " ", "a", "b", "c", "d"] and pipeline.data.classes == [SAID, OTHER]
    recogniser = load(pipeline.models["original"].folder, device="cpu")
    heard = recogniser.transcribe([recordings / "speaker0_2.wav", recordings / "speaker1_2.wav"])
    rows = pipeline.data.table["id"].isin(["speaker0_2.wav", "speaker1_2.wav"]).to_numpy()
    stored = read_scores(pipeline.scored[pipeline.models["original"].key].folder)["heard"][rows]
    names = np.array([*pipeline.data.outputs, ""], dtype=object)
    assert heard == ["".join(names[row]).strip() for row in stored]
    with pytest.raises(UserError, match="call transcribe"):
        recogniser.classify(recordings / "speaker0_2.wav")


def test_the_page_on_transcripts_has_code_that_runs(
    made: tuple[Pipeline, Artefact], recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    code = code.replace("outputs/result/...", str(made[1].folder))
    exec(code.replace("recording.wav", str(recordings / "speaker0_2.wav")), {})
    assert set(capsys.readouterr().out.strip()) <= set(" abcd")


def test_the_command_writes_what_it_hears(
    made: tuple[Pipeline, Artefact], recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recordings / "speaker0_2.wav"
    assert classify([str(made[1].folder), str(path)]) == 0 and classify([str(made[1].folder), str(path), "--json"]) == 0
    plain, as_json = capsys.readouterr().out.splitlines()
    heard = load(made[1].folder, device="cpu").transcribe(path)
    assert plain == f"{path}: {heard}" and json.loads(as_json) == {"recording": str(path), "text": heard}


def test_the_card_is_that_of_a_recogniser(made: tuple[Pipeline, Artefact], tmp_path: Path) -> None:
    export(made[1].folder, tmp_path / "exported", ["folder"])
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: automatic-speech-recognition" in card and "type: wer" in card
    assert "writes down what is said" in card and '.transcribe("recording.wav")' in card
    assert "word_error_rate_forget" in card and "classif" not in card
    assert isinstance(load(tmp_path / "exported", device="cpu").transcribe([]), list)


def test_pictures_and_charts_show_error_rates(made: tuple[Pipeline, Artefact], tmp_path: Path) -> None:
    result = json.loads((made[1].folder / "result.json").read_text())
    first = comparison_plot(result, "same", tmp_path / "first.png").read_bytes()
    result["comparison"]["unlearned"]["word_error_rate_retain"].update(value=1.5, low=1.4, high=1.6)
    assert comparison_plot(result, "same", tmp_path / "second.png").read_bytes() != first
    assert mean_gap({"word_error_rate_forget": -0.2, "word_error_rate_test": 0.1}) == pytest.approx(15)


def test_a_recording_without_a_transcript_is_left_out(made: tuple[Pipeline, Artefact]) -> None:
    pipeline = made[0]
    assert "speaker0_1.wav" not in set(pipeline.data.table["id"])
    assert len(pipeline.data.table) == spoken_tones.SPEAKERS * spoken_tones.EACH - 1


def test_probabilities_of_texts_are_those_of_the_loss(tables: Tables) -> None:
    for scores in (tables.original, tables.oracle, tables.unlearned):
        chances = np.exp(np.asarray(scores.logits, dtype=np.float64))
        assert np.allclose(chances.sum(axis=1), 1, atol=1e-6)
        assert np.allclose(-np.log(np.maximum(chances[:, 0], 1e-300)), scores.loss, rtol=1e-4, atol=1e-6)
        assert scores.errors is not None and scores.heard is not None
        exact = scores.errors[:, 2] == 0
        assert np.all(scores.errors[exact, 0] == 0)
        assert np.all(exact[chances[:, 0] > 0.5 + 1e-6])  # most of all probability: no other text can be likelier


def test_non_members_of_a_random_request_have_its_lengths(made: tuple[Pipeline, Artefact]) -> None:
    pipeline = made[0]
    table, request = pipeline.data.table, pipeline.request
    assert "duration" in request.matched
    assert set(table["duration"].iloc[request.nonmembers]) <= set(table["duration"].iloc[request.forget])


@pytest.mark.parametrize(
    "method", [name if name in USUAL else pytest.param(name, marks=pytest.mark.nightly) for name in METHODS]
)
def test_each_method_of_texts_works(method: str, texts: Configure) -> None:
    changes = ["method.epochs_back=2"] if method == "rewind" else []
    result = run(texts(f"method={method}", *changes)).result()
    found = json.loads((result.folder / "result.json").read_text())["comparison"]["unlearned"]
    values = [found[f"{kind}_error_rate_forget"]["value"] for kind in ("word", "character")]
    assert all(value is not None and math.isfinite(value) for value in values)
    assert any(found[name]["gap"] is not None for name in found if name.startswith("heard_differently"))


def test_every_other_method_is_refused(texts: Configure) -> None:
    config = texts()
    for path in CONF.glob("*.yaml"):
        method = {"name": path.stem, "labels": OmegaConf.load(path).get("labels", ["class"])}
        if path.stem in METHODS:
            check_labels({**config, "method": method})
        else:
            with pytest.raises(NotApplicable, match="not defined for transcripts"):
                check_labels({**config, "method": method})


def test_requests_by_speaker_and_by_noise_source(texts: Configure) -> None:
    for by, value in (("speaker", "speaker2"), ("room", "car")):
        pipeline = run(texts("task.percent=5", f"task.by={by}", f"task.values=[{value}]"))
        table = pipeline.data.table
        assert set(table[by].iloc[pipeline.request.forget]) == {value}
        assert set(table[by].iloc[pipeline.request.nonmembers]) == {value}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task.kind=class"], "choose task=sample"),
        (["model.labels=[class]"], "model=quartznet is not for transcripts.*model=quartznet"),
        (["evaluation=quick"], "evaluation=quick is not for transcripts.*evaluation=transcripts"),
        (["train.augment.shift=0.1"], "shift would cut words"),
        (["train.label_smoothing=0.1"], "label_smoothing needs classes"),
        (["dataset.windows=2"], "dataset.windows"),
        (["dataset.label=speaker"], "model=quartznet is not for classes"),
        (["task.by=mislabelled"], "is for classes"),
    ],
)
def test_what_needs_classes_is_refused_in_one_sentence(overrides: list[str], says: str, texts: Configure) -> None:
    with pytest.raises(UserError, match=says):
        check_labels(texts(*overrides))


def test_a_crop_would_lose_words(texts: Configure) -> None:
    with pytest.raises(UserError, match=r"would crop .* recordings.*set dataset.seconds="):
        _ = run(texts("dataset.seconds=0.2")).data


def test_too_few_frames_for_the_letters_are_named(texts: Configure, tmp_path: Path) -> None:
    recordings = spoken_tones.write(tmp_path / "dense", speakers=3, each=10)
    manifest = recordings / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("!", " and many more words than fit"))
    config = texts(f"dataset.root={recordings}", f"output={tmp_path / 'out'}", "method=none")
    with pytest.raises(UserError, match="more letters than the model has frames"):
        run(config).result()


def test_too_few_frames_are_named_before_a_finished_model_unlearns(
    made: tuple[Pipeline, Artefact], texts: Configure, tmp_path: Path
) -> None:
    recordings = spoken_tones.write(tmp_path / "dense", speakers=3, each=10)
    manifest = recordings / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("!", " abcd" * 20))
    original = made[0].models["original"].folder
    config = texts(f"dataset.root={recordings}", f"output={tmp_path / 'out'}", f"original.checkpoint={original}")
    with pytest.raises(UserError, match="more letters than the model has frames"):
        run(config).result()


@pytest.mark.slow
def test_librispeech_runs_whole(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    root = make_corpus("librispeech")
    for path in root.rglob("*.trans.txt"):  # the copies last less than a second
        path.write_text("".join(f"{line.split()[0]} A B\n" for line in path.read_text().splitlines()))
    own = [each for each in spoken_tones.OPTIONS if not each.startswith(("dataset=", "dataset.sample_rate"))]
    own += ["train.epochs=1", "train.warmup=0", "method=finetune", "method.epochs=1", "logger=none"]
    own += ["dataset=librispeech", f"dataset.root={root}", f"output={tmp_path / 'out'}", "trainer.threads=1"]
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", overrides=own), resolve=True)
    result = json.loads((run(config).result().folder / "result.json").read_text())
    assert result["label"] == "text" and result["comparison"]["unlearned"]["word_error_rate_test"]["value"] is not None


def test_numbers_that_were_searched_on_classes_are_warned_of(texts: Configure) -> None:
    assert "on transcripts" in str(untried(texts("method=scrub"), 5, 100))
    assert untried(texts("method=none"), 5, 100) is None
