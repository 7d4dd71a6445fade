"""Export a result: the folder that leaves, its card, its int8 scores, the delivered model, and a bundle."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from support.encoders import RAW

from speechforget import load
from speechforget.cli import classify, export, store
from speechforget.config.validate import check
from speechforget.errors import UserError
from speechforget.export import bundle as bundling
from speechforget.export.model_folder import export as export_model
from speechforget.pipeline import Pipeline
from speechforget.store import Store, verified

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
ASKED = ("task=sample", "task.percent=10", "method=finetune", "method.epochs=1", "train.epochs=2")


@pytest.fixture(scope="module")
def output(configure: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run, and of the same run that delivers its oracle."""
    folder = tmp_path_factory.mktemp("exported")
    for more in ([], ["deliver=oracle"]):
        config = configure(f"output={folder}", *ASKED, *more)
        Pipeline(config, Store.of(config)).run()
    return folder


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, Path]:
    """The result folders by the model that they deliver."""
    found = {json.loads(path.read_text())["delivered"]: path.parent for path in output.glob("result/*/result.json")}
    assert set(found) == {"unlearned", "oracle"}
    return found


@pytest.fixture(scope="module")
def exported(results: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of the unlearned model, by the command."""
    folder = tmp_path_factory.mktemp("out") / "model"
    assert export.main([str(results["unlearned"]), str(folder)]) == 0
    return folder


def blocks() -> list[str]:
    """Return the Python code of the page."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text())


def test_every_format_is_made_and_was_checked_on_recordings(exported: Path) -> None:
    told = record_of(exported)
    assert told["delivered"] and told["model"]["name"] == "unlearned"
    assert all(one["made"] for one in told["formats"].values())
    for name in ("folder", "onnx", "torchscript"):
        one = told["formats"][name]
        assert one["largest_difference"] < 1e-4 and one["checked_on"] == "recordings of the corpus that were retained"
    names = {path.name for path in exported.iterdir()}
    assert names == {*told["files"], "export.json"}
    assert {"README.md", "model.json", "model.onnx", "model.int8.onnx", "model.torchscript.pt"} <= names
    assert not [path for path in exported.parent.iterdir() if path != exported], "a temporary folder is left"


def test_int8_has_its_own_scores_beside_the_float_ones(exported: Path, results: dict[str, Path]) -> None:
    scores = record_of(exported)["formats"]["int8"]["scores"]
    recorded = json.loads((results["unlearned"] / "result.json").read_text())["comparison"]
    for name in ("accuracy_forget", "accuracy_retain", "accuracy_test", "membership_auc"):
        one = scores["numbers"][name]
        assert one["float"]["value"] == recorded["unlearned"][name]["value"]
        assert all(one[kind]["value"] == recorded[kind][name]["value"] for kind in ("oracle", "original"))
        assert one["int8"]["count"] == one["float"]["count"] and one["int8"]["low"] is not None
    assert {"loss_forget", "loss_retain", "loss_test"} <= set(scores["numbers"])
    assert 0.8 < scores["agreement"] <= 1
    assert "judges the method" in scores["not_measured"]["audit"]
    floats, ints = (scores["numbers"]["loss_retain"][kind]["value"] for kind in ("float", "int8"))
    assert floats != ints and ints == pytest.approx(floats, abs=0.2)


def test_the_card_has_metadata_evidence_and_no_recording(exported: Path, results: dict[str, Path]) -> None:
    card = (exported / "README.md").read_text()
    meta = yaml.safe_load(card.split("---\n")[1])
    assert meta["license"] == "other" and meta["library_name"] == "speechforget" and "datasets" not in meta
    recorded = json.loads((results["unlearned"] / "result.json").read_text())
    (index,) = meta["model-index"]
    metrics = {one["name"]: one["value"] for one in index["results"][0]["metrics"]}
    assert metrics["accuracy_test"] == recorded["comparison"]["unlearned"]["accuracy_test"]["value"]
    for answer in recorded["verdict"]:
        assert answer["sentence"] in card
    for words in (
        "What was not shown",
        "accuracy_forget",
        "oracle",
        "int8",
        "Repeat",
        record_of(exported)["result"]["key"],
    ):
        assert words in card
    written = "".join(path.read_text() for path in (exported / "README.md", exported / "export.json"))
    ids = (results["unlearned"] / "forget.txt").read_text().splitlines()
    assert ids and not [identity for identity in ids if identity in written]
    assert not [word for word in ("proved", "GDPR", "certified", str(results["unlearned"].parents[1])) if word in card]


def test_the_card_is_read_by_the_hub_s_library(exported: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(exported / "README.md")
    assert card.data.eval_results[0].metric_type == "accuracy" and "machine-unlearning" in card.data.tags


def test_an_exported_folder_classifies_as_the_result_does(
    exported: Path, results: dict[str, Path], tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(tones.glob("*/*.wav"))[:6]
    expected, found = (load(folder).classify(files) for folder in (results["unlearned"], exported))
    assert found == expected and len(found) == len(files)
    assert classify.main([str(exported), str(files[0].parent), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(list(files[0].parent.glob("*.wav")))
    assert lines[0]["label"] == expected[0].label


def test_the_code_of_the_page_runs(
    exported: Path, tones: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = [block for block in blocks() if "classify" in block]
    monkeypatch.chdir(exported.parent)
    shutil.copy(next(tones.glob("*/*.wav")), exported.parent / "recording.wav")
    exec(code.replace("my_model", exported.name), {})
    (exported.parent / "recording.wav").unlink()
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.slow
def test_the_delta_of_low_rank_updates_goes_on_and_off_the_original(
    configure: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = ", ".join(f"{name}: {number}" for name, number in RAW.items())
    tiny = ["model=wav2vec2_base", "model.pretrained=null", "model.projection=8", f"model.architecture={{{numbers}}}"]
    training = ["dataset.sample_rate=16000", "train.epochs=1", "train.warmup=0"]
    method = ["method=gradient_ascent", "method.trainable=lora", "method.epochs=1", "method.learning_rate=0.01"]
    config = configure(*tiny, *training, *ASKED[:2], *method, f"output={tmp_path / 'outputs'}")
    result = Pipeline(config, Store.of(config)).result().folder
    assert export.main([str(result), str(tmp_path / "my_delta"), "--format", "delta"]) == 0
    assert export.main([str(result), str(tmp_path / "my_base"), "--model", "original", "--format", "folder"]) == 0
    assert record_of(tmp_path / "my_delta")["formats"]["delta"]["low_rank"] == 4
    (code,) = [block for block in blocks() if "delta.add" in block]
    on, off = code.split("delta.take_off", 1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(on, names)
    sound = np.random.default_rng(0).normal(0, 0.1, 8000)
    unlearned, base = load(result, device="cpu"), load(tmp_path / "my_base", device="cpu")
    assert names["recogniser"].classify(sound).probabilities == pytest.approx(unlearned.classify(sound).probabilities)
    exec(f"delta.take_off{off}", names)
    assert names["recogniser"].classify(sound) == base.classify(sound) != unlearned.classify(sound)


def test_classify_goes_on_after_a_bad_file_and_ends_with_code_1(
    exported: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    good = next(tones.glob("*/*.wav"))
    assert classify.main([str(exported), str(tmp_path / "silent.wav"), str(good)]) == 1
    said = capsys.readouterr()
    assert "silent.wav cannot be used: silent" in said.err and str(good) in said.out
    assert classify.main([str(tmp_path), str(good)]) == 1
    assert "neither a model nor a result" in capsys.readouterr().err


def test_the_oracle_can_be_the_delivered_model(
    results: dict[str, Path], output: Path, tmp_path: Path, tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (oracle,) = output.glob("oracle/*/weights.safetensors")
    assert export.main([str(results["oracle"]), str(tmp_path / "x"), "--format", "folder"]) == 0
    assert "Model: oracle, the delivered model" in capsys.readouterr().out
    assert (tmp_path / "x" / "weights.safetensors").read_bytes() == oracle.read_bytes()
    file = next(tones.glob("*/*.wav"))
    assert load(results["oracle"]).classify(file) == load(oracle.parent).classify(file)
    first, second = (json.loads((results[name] / "result.json").read_text()) for name in ("unlearned", "oracle"))
    assert first["comparison"] == second["comparison"] and first["identity"] == second["identity"]
    assert any("Delivered: the oracle" in note for note in second["notes"])
    assert "was trained from scratch" in (tmp_path / "x" / "README.md").read_text()


def test_another_model_of_a_result_is_marked_as_not_delivered(results: dict[str, Path], tmp_path: Path) -> None:
    told = export_model(results["unlearned"], tmp_path / "x", ["folder"], "original")
    assert not told["delivered"]
    assert "**The original: it was trained on all recordings" in (tmp_path / "x" / "README.md").read_text()


def test_deliver_needs_an_oracle(configure: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="deliver=oracle needs a run with an oracle"):
        check(configure("deliver=oracle", "oracle=none"))
    with pytest.raises(UserError, match="deliver"):
        check(configure("deliver=original"))


@pytest.mark.slow
def test_without_recordings_checks_use_generated_sounds_and_int8_is_left_out(
    results: dict[str, Path], output: Path, tmp_path: Path
) -> None:
    """Nothing is decoded again: an export must not bring copies of forgotten recordings back."""
    copied = shutil.copytree(output, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    result = copied / "result" / results["unlearned"].name
    told = export_model(result, tmp_path / "x", ["folder"])
    assert "generated sounds, because the decoded recordings" in told["formats"]["folder"]["checked_on"]
    assert not (copied / "cache").exists()
    with pytest.raises(UserError, match="The format int8 cannot be made: the decoded recordings"):
        export_model(result, tmp_path / "y", ["int8"])
    assert not (tmp_path / "y").exists()


def test_a_missing_package_leaves_formats_out_unless_they_are_asked_for(
    results: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    told = export_model(results["unlearned"], tmp_path / "x")["formats"]
    assert [name for name in told if told[name]["made"]] == ["folder", "torchscript"]
    assert "needs the package onnxruntime" in told["onnx"]["reason"]
    assert "Not here: int8, because it needs the package" in (tmp_path / "x" / "README.md").read_text()
    with pytest.raises(UserError, match=r"onnx cannot be made: it needs the package onnxruntime: .*\[export\]"):
        export_model(results["unlearned"], tmp_path / "y", ["folder", "onnx"])
    assert not (tmp_path / "y").exists()


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no result": (["{output}", "{new}"], "is not a result"),
    "no such format": (["{result}", "{new}", "--format", "onix"], "There is no format 'onix': did you mean 'onnx'"),
    "no such model": (["{result}", "{new}", "--model", "oracel"], "did you mean 'oracle'"),
    "existing": (["{result}", "{full}"], "exists: choose another folder, or replace it with --overwrite"),
    "not ours": (["{result}", "{full}", "--overwrite"], "was not written by this command"),
    "no delta": (["{result}", "{new}", "--format", "delta"], "unlearn with method.trainable=lora or head"),
    "bundle of nothing": (["{output}", "--bundle", "{new}"], "is not a result"),
    "bundle over something": (["{result}", "--bundle", "{full}"], "exists"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    name: str, results: dict[str, Path], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    places = {"result": results["unlearned"], "output": output, "new": tmp_path / "new", "full": tmp_path / "full"}
    words, sentence = MISTAKES[name]
    assert export.main([word.format(**places) for word in words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("Error: ") and len(said.err.splitlines()) == 1 and sentence in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"full"}
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_a_missing_or_damaged_model_is_an_error(results: dict[str, Path], output: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(output, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    result = copied / "result" / results["unlearned"].name
    (weights,) = copied.glob("unlearned/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for make in (export_model, bundling.bundle):
        with pytest.raises(UserError, match="has other bytes than recorded"):
            make(result, tmp_path / "x")
    shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match="numbers only"):
        export_model(result, tmp_path / "x")
    with pytest.raises(UserError, match="which is missing: repeat the run"):
        bundling.bundle(result, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_overwrite_replaces_an_export_whole(results: dict[str, Path], tmp_path: Path) -> None:
    export_model(results["unlearned"], tmp_path / "x", ["folder", "torchscript"])
    export_model(results["unlearned"], tmp_path / "x", ["folder"], overwrite=True)
    assert not (tmp_path / "x" / "model.torchscript.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("with_ids", [False, True])
def test_a_bundle_is_an_output_folder_that_verifies(
    with_ids: bool, results: dict[str, Path], output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, result = tmp_path / "bundle", results["unlearned"]
    words = [str(result), "--bundle", str(target), *(["--with-ids"] if with_ids else [])]
    assert export.main(words) == 0
    assert "trained on the forgotten recordings" in capsys.readouterr().out
    assert store.main(["verify", "--output", str(target)]) == 0
    said = capsys.readouterr().out
    assert "8 artefacts checked, 0 bad" in said and ("6 files were withheld" in said) != with_ids
    ids = (result / "forget.txt").read_text().splitlines()
    texts = [path.read_bytes() for path in target.rglob("*") if path.suffix in {".txt", ".csv", ".json", ".yaml"}]
    assert any(identity.encode() in text for identity in ids for text in texts) == with_ids
    moved = target / "result" / result.name
    assert load(moved).labels == load(result).labels
    with (
        pytest.raises(UserError, match=r"was handed over without forget\.txt")
        if not with_ids
        else contextlib.nullcontext()
    ):
        verified(moved, "forget.txt")
    (weights,) = target.glob("oracle/*/weights.safetensors")
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    assert store.main(["verify", "--output", str(target)]) == 1
