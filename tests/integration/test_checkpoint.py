"""A checkpoint of the user's as the original, and comparisons without an oracle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from speechforget import pipeline
from speechforget.cli.plan import plan
from speechforget.cli.report import main as report
from speechforget.config.oracle import has_oracle, why_no_oracle
from speechforget.config.validate import check
from speechforget.errors import UserError
from speechforget.models.checkpoint import read_checkpoint
from speechforget.models.folder import load_classifier
from speechforget.report.caveats import caveats
from speechforget.stages.import_checkpoint import reorder
from speechforget.stages.score_files import read_scores
from speechforget.stages.split import split_corpus
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
FILES = ("model.json", "weights.safetensors")


def only(places: list[Path]) -> Path:
    (place,) = places
    return place


def result_of(output: Path) -> dict:
    return json.loads(only(list(output.glob("result/*/result.json"))).read_text())


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(source / name, target)
    return target


@pytest.fixture(scope="module")
def trained(configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that trained its original, for as many epochs as every run here."""
    output = tmp_path_factory.mktemp("trained")
    pipeline.run(configure(f"output={output}"))
    return output


@pytest.fixture(scope="module")
def checkpoint(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its original, elsewhere."""
    return copied(only(list(trained.glob("original/*-*[0-9a-f]"))), tmp_path_factory.mktemp("mine") / "model")


@pytest.fixture(scope="module")
def alone(configure, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that starts from the checkpoint and has no oracle."""
    output = tmp_path_factory.mktemp("alone")
    objective = pipeline.run(configure(f"output={output}", f"original.checkpoint={checkpoint}"))
    assert np.isnan(objective)
    return output


def test_the_checkpoint_is_the_original(alone: Path, trained: Path) -> None:
    mine, theirs = (only(list(output.glob("original/*/weights.safetensors"))) for output in (alone, trained))
    assert mine.read_bytes() == theirs.read_bytes()
    ours, original = (result_of(output)["comparison"] for output in (alone, trained))
    for name, entry in ours["original"].items():
        if entry.get("reason") == "there is no oracle":
            assert entry["value"] is None, name
        elif name != "seconds":
            assert entry["value"] == original["original"][name]["value"], name
    assert ours["original"]["seconds"]["value"] is None and ours["unlearned"]["seconds"]["value"] > 0
    assert ours["unlearned"]["accuracy_test"]["value"] == original["unlearned"]["accuracy_test"]["value"]
    (unlearned,) = alone.glob("unlearned/*/inputs.json")
    done = json.loads((mine.parent / "DONE").read_text())
    assert json.loads(unlearned.read_text())["inputs"]["original"] == done["key"]


def test_nothing_looks_as_if_there_were_an_oracle(alone: Path) -> None:
    assert not (alone / "oracle").exists() and len(list(alone.glob("scores/*/DONE"))) == 2
    result = result_of(alone)
    assert result["objective"] is None and result["artefacts"]["oracle"] is None and "oracle" not in result["cost"]
    assert "oracle=train" in result["no_oracle"]
    for entries in result["comparison"].values():
        assert all(entry["gap"] is None and entry["oracle_spread"] is None for entry in entries.values())
    assert all(entry["value"] is None for entry in result["comparison"]["oracle"].values())
    assert result["comparison"]["unlearned"]["accuracy_forget"]["value"] is not None
    assert result["comparison"]["unlearned"]["kl_test"]["value"] is None
    table = pd.read_csv(only(list(alone.glob("result/*/result.csv"))))
    assert table[table["model"] == "oracle"]["value"].isna().all() and table["gap"].isna().all()
    picture = only(list(alone.glob("result/*/comparison.png"))).read_bytes()
    assert len(picture) > 30_000 and b"No oracle" in picture


def test_the_console_says_none_and_why(alone: Path, checkpoint: Path, configure, capsys) -> None:
    pipeline.run(configure(f"output={alone}", f"original.checkpoint={checkpoint}"))
    text = capsys.readouterr().out
    # The first line of each name is in the table; a sentence below may wrap before the name of a model.
    lines = {line.split()[0]: line.split()[1:] for line in reversed(text.splitlines()) if line.strip()}
    assert lines["oracle"] == ["none"] * 7 and lines["original"][-1] == "–"
    assert (
        not re.search(r"[+-]\d", " ".join([*lines["original"], *lines["unlearned"]]))
        and "Beside each value" not in text
    )
    joined = " ".join(text.split())
    for words in (
        "no oracle, so the attack cannot be checked",
        "No oracle: the recipe",
        "its training set is not known",
        "only if it was not trained on the holdout",
    ):
        assert words in joined


def test_a_cached_run_needs_no_torch_and_the_folder_does_not_matter(
    alone: Path, checkpoint: Path, command, small, tmp_path: Path
) -> None:
    elsewhere = copied(checkpoint, tmp_path / "another" / "place")
    before = sorted(alone.glob("*/*"))
    run = command(
        *small,
        f"output={alone}",
        f"original.checkpoint={elsewhere}",
        env={"PYTHONPATH": str(ROOT / "tests" / "support" / "no_torch")},
    )
    assert run.returncode == 0, run.stderr
    assert sorted(alone.glob("*/*")) == before


def test_an_oracle_can_be_trained_all_the_same(
    alone: Path, trained: Path, checkpoint: Path, configure, tmp_path: Path
) -> None:
    output = shutil.copytree(alone, tmp_path / "output")
    objective = pipeline.run(configure(f"output={output}", f"original.checkpoint={checkpoint}", "oracle=train"))
    found = [json.loads(path.read_text()) for path in output.glob("result/*/result.json")]
    (result,) = [one for one in found if one["no_oracle"] is None]
    expected = result_of(trained)
    assert objective == expected["objective"] and len(found) == 2
    assert result["comparison"]["oracle"]["accuracy_test"] == expected["comparison"]["oracle"]["accuracy_test"]
    assert result["comparison"]["unlearned"]["kl_test"] == expected["comparison"]["unlearned"]["kl_test"]
    assert any("this run's recipe" in note for note in result["notes"]) and "oracle" in result["cost"]
    assert len(list(output.glob("original/*/DONE"))) == 1


def permuted(checkpoint: Path, target: Path, order: list[int]) -> Path:
    """The same classifier with its outputs in another order."""
    copied(checkpoint, target)
    weights, described = load_file(target / FILES[1]), json.loads((target / FILES[0]).read_text())
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name][order].contiguous()
    save_file(weights, target / FILES[1])
    (target / FILES[0]).write_text(
        json.dumps({**described, "labels": [described["labels"][number] for number in order]})
    )
    return target


def test_outputs_come_in_the_corpuss_order(alone: Path, checkpoint: Path, configure, tmp_path: Path) -> None:
    other = permuted(checkpoint, tmp_path / "other", [2, 0, 3, 1])
    config = configure(f"output={tmp_path / 'output'}", f"original.checkpoint={other}")
    pipeline.Pipeline(config, Store(Path(config["output"]))).train("original")
    mine, theirs = (
        load_file(only(list(output.glob("original/*/weights.safetensors")))) for output in (tmp_path / "output", alone)
    )
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (
        only(list((tmp_path / "output").glob("original/*/model.json"))).read_text()
        == only(list(alone.glob("original/*/model.json"))).read_text()
    )


@pytest.mark.parametrize("labels", ["[word0,word1,word2,word3]", "{yes: word0, no: word1, 2: word2}"])
def test_outputs_can_be_named(labels: str, alone: Path, checkpoint: Path, configure, tmp_path: Path) -> None:
    other = copied(checkpoint, tmp_path / "other")
    described = json.loads((other / FILES[0]).read_text())
    (other / FILES[0]).write_text(json.dumps({**described, "labels": ["yes", "no", "2", "word3"]}))
    config = configure(f"output={tmp_path / 'output'}", f"original.checkpoint={other}", f"original.labels={labels}")
    check(config)
    artefact = pipeline.Pipeline(config, Store(Path(config["output"]))).train("original")
    classifier, parts = load_classifier(artefact.folder)
    assert parts["labels"] == ["word0", "word1", "word2", "word3"]
    assert torch.equal(
        classifier.head.weight, load_classifier(only(list(alone.glob("original/*-*[0-9a-f]"))))[0].head.weight
    )


def described(checkpoint: Path, **changes) -> None:
    path = checkpoint / FILES[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_weights(folder: Path) -> None:
    weights = folder / FILES[1]
    weights.write_bytes(weights.read_bytes()[:-100])


def ruined(folder: Path) -> None:
    weights = load_file(folder / FILES[1])
    weights["head.weight"][0, 0] = torch.nan
    save_file(weights, folder / FILES[1])


def flipped_after_done(folder: Path) -> None:
    import hashlib

    weights = folder / FILES[1]
    data = bytearray(weights.read_bytes())
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "DONE").write_text(json.dumps({"key": "0" * 64, "files": {FILES[1]: record}}))
    data[-3] ^= 1
    weights.write_bytes(data)


def hugging_face(folder: Path, **changes) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    described = {
        "architectures": ["HubertForSequenceClassification"],
        "model_type": "hubert",
        "id2label": {"0": "word0"},
    }
    (folder / "config.json").write_text(json.dumps({**described, **changes}))


def hugging_face_in_parts(folder: Path) -> None:
    hugging_face(folder, id2label={str(number): f"word{number}" for number in range(4)})
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    (folder / "model-1.safetensors").write_bytes(b"")


MISTAKES = {
    "missing": (shutil.rmtree, "does not exist"),
    "empty": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        "neither a model of speechforget .* nor one of Hugging Face",
    ),
    "no weights": (lambda folder: (folder / FILES[1]).unlink(), "has no weights.safetensors"),
    "no json": (lambda folder: (folder / FILES[0]).write_text("{"), "model.json cannot be read"),
    "other json": (lambda folder: (folder / FILES[0]).write_text("{}"), "is not what a run of speechforget writes"),
    "cut": (cut_weights, "cannot be read as weights of this model"),
    "flipped": (flipped_after_done, "is damaged, weights.safetensors has other bytes"),
    "no numbers": (ruined, "not numbers"),
    "other labels": (
        lambda folder: described(folder, labels=["yes", "no", "up", "word3"]),
        "does not know 'word0', 'word1', 'word2' of the corpus",
    ),
    "more labels": (
        lambda folder: described(folder, labels=["word0", "word1", "word2", "word3", "word4"]),
        "also has outputs for 'word4'",
    ),
    "same labels": (
        lambda folder: described(folder, labels=["word0", "word0", "word2", "word3"]),
        "the name 'word0'",
    ),
    "sample rate": (lambda folder: described(folder, sample_rate=16000), "set dataset.sample_rate=16000"),
    "other options": (
        lambda folder: described(folder, model={"_target_": "speechforget.models.tcresnet.TCResNet", "bands": 20}),
        r"model.bands=20",
    ),
    "other model": (lambda folder: described(folder, model={"name": "big", "_target_": "a.b"}), "set model=big"),
    "a part is missing": (hugging_face_in_parts, "model-2.safetensors cannot be read"),
    "no classifier": (
        lambda folder: hugging_face(folder, architectures=["HubertModel"]),
        "HubertModel, which is not a classifier",
    ),
    "other library": (hugging_face, "set model= to one for hubert"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(name: str, checkpoint: Path, configure, tmp_path: Path) -> None:
    spoil, words = MISTAKES[name]
    other = copied(checkpoint, tmp_path / "other")
    spoil(other)
    config = configure(
        f"output={tmp_path / 'output'}",
        f"original.checkpoint={other}",
        *(["model=hubert_base"] if "part" in name else []),
    )
    check(config)
    with pytest.raises(UserError, match=words) as raised:
        pipeline.run(config)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert not list((tmp_path / "output").glob("original/*"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["oracle=maybe"], "no oracle=maybe"),
        (["oracle=none", "only=oracle"], "oracle=train"),
        (["original.checkpoint=somewhere", "only=oracle"], "oracle=train"),
        (["original.labels=[a]"], "original.checkpoint"),
        (["original.checkpoint=7"], "must be a folder"),
        (["original.checkpoint=somewhere", "original.labels=a"], "must be a list"),
    ],
)
def test_wrong_configs_are_refused(overrides: list[str], words: str, configure) -> None:
    with pytest.raises(UserError, match=words):
        check(configure(*overrides))


def test_a_mistake_on_the_command_line_ends_in_one(command, small, tmp_path: Path) -> None:
    run = command(*small, f"output={tmp_path}", f"original.checkpoint={tmp_path / 'nowhere'}")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert [line for line in run.stderr.splitlines() if line.startswith("Error: ")] and "does not exist" in run.stderr


def test_a_plan_knows_that_there_is_no_oracle(alone: Path, checkpoint: Path, configure, tmp_path: Path) -> None:
    stages = ["split", "original", "unlearned", "scores", "scores", "result"]
    for overrides, expected in (
        ([], stages),
        (["oracle=train"], [*stages[:2], "oracle", "unlearned", *["scores"] * 3, "result"]),
    ):
        config = configure(
            f"output={tmp_path}", f"cache={tmp_path / 'cache'}", f"original.checkpoint={checkpoint}", *overrides
        )
        assert [planned.stage for planned in plan(config)] == expected  # of a corpus that nobody has decoded
    split_corpus(config, Store(tmp_path))
    planned = plan(configure(f"output={tmp_path}", f"original.checkpoint={checkpoint}"))
    assert [one.stage for one in planned] == stages and not (tmp_path / "original").exists()
    there = plan(configure(f"output={alone}", f"original.checkpoint={checkpoint}"))
    assert all(one.exists for one in there) and {one.key for one in there} >= {one.key for one in planned}


def test_a_sweep_mixes_both_and_the_report_tells_them_apart(
    trained: Path, checkpoint: Path, command, small, tmp_path: Path, capsys
) -> None:
    output = shutil.copytree(trained, tmp_path / "output")
    run = command("-m", *small, f"output={output}", f"original.checkpoint=null,{checkpoint}", "oracle=auto,none")
    assert run.returncode == 0, run.stderr
    assert len(list(output.glob("result/*/DONE"))) == 3  # a checkpoint has no oracle either way
    assert len(list(output.glob("original/*/DONE"))) == 2
    assert run.stdout.count("objective") == 1 and run.stdout.count("  done ") == 4
    assert report([str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("no oracle") >= 2 and "checkpoint" in shown
    text = (output / "report.md").read_text()
    tables = {part.splitlines()[0]: part for part in text.split("### ")[1:]}
    assert len(tables) == 3
    for title, table in tables.items():
        row = next(line for line in table.splitlines() if line.startswith("| Oracle"))
        assert ("no oracle" in title) == ("no oracle" in row) == ("No oracle: " in table)
        assert ("No oracle: " in table) != ("The oracle is the aim" in table)
        assert ("checkpoint" in title) == ("not trained on the holdout" in table)
        original = next(line for line in table.splitlines() if line.startswith("| Original"))
        assert ("checkpoint" in title) == (original.split("|")[-3].strip() == "–"), original
    lines = pd.read_csv(output / "report.csv")
    without = lines[~lines["oracle"]]
    assert without[without["artefact"] == "oracle"]["mean"].isna().all() and without["gap_mean"].isna().all()
    assert without["notes"].str.contains("No oracle: ").all()
    for arguments in (["--format", "latex", "--gap"], ["--gap", "--format", "markdown"]):
        assert report([str(output), *arguments]) == 0
        assert "no oracle" in (shown := capsys.readouterr().out) and "nan" not in shown


def test_pretrained_weights_are_never_left_unsaid(configure, checkpoint: Path) -> None:
    config = configure()
    assert caveats(config, None) == [] and has_oracle(config) and why_no_oracle(config) is None
    config["model"]["pretrained"] = "facebook/hubert-base-ls960"
    (note,) = caveats(config, None)
    assert note == (
        "Original and oracle start from the same pretrained weights (facebook/hubert-base-ls960): "
        "what pre-training learned of the forget utterances was not unlearned."
    )
    config["oracle"] = "none"
    assert caveats(config, None)[0].startswith(
        "The original starts from pretrained weights (facebook/hubert-base-ls960)"
    )
    config = configure(f"original.checkpoint={checkpoint}")
    assert [note.split(":")[0] for note in caveats(config, read_checkpoint(config))] == [
        "The original is the user's checkpoint"
    ]
    config["model"]["pretrained"] = "facebook/hubert-base-ls960"
    config["oracle"] = "train"
    assert caveats(config, read_checkpoint(configure(f"original.checkpoint={checkpoint}")))[-1].startswith(
        "The original, a tcresnet, may start from pretrained weights, and the oracle from facebook/hubert-base-ls960: "
    )


def test_a_checkpoint_of_hugging_face_is_read(configure, tmp_path: Path) -> None:
    folder = tmp_path / "hubert"
    folder.mkdir()
    hugging_face(folder, id2label={"10": "word3", "0": "word0", "2": "word1", "1": "word2"})
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    config = configure(f"original.checkpoint={folder}", "model=hubert_base")
    found = read_checkpoint(config)
    assert found is not None and found.labels == ("word0", "word2", "word1", "word3") and found.sample_rate == 8000
    assert set(found.files) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert "pretrained weights (hubert" in caveats(config, found)[-1]
    digest = found.digest
    (folder / "optimizer.pt").write_bytes(b"of no account")
    assert found.digest == digest
    (folder / "model.safetensors").write_bytes(b"others")
    assert found.digest != digest


@pytest.fixture
def hubert(tmp_path: Path) -> tuple[Path, list[str]]:
    """A very small HuBERT as transformers saves it, and what a run must say of it."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "classifier_proj_size": 8,
    }
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [5, 80], "num_conv_pos_embeddings": 4}
    names = {
        "id2label": {0: "word3", 1: "word0", 2: "word1", 3: "word2"},
        "label2id": {"word3": 0, "word0": 1, "word1": 2, "word2": 3},
    }
    torch.manual_seed(0)
    config = transformers.HubertConfig(**sizes, **convolutions, **names, num_conv_pos_embedding_groups=2)
    transformers.HubertForSequenceClassification(config).save_pretrained(tmp_path / "hubert")
    options = [
        "model=hubert_base",
        "model.pretrained=null",
        "dataset.sample_rate=16000",
        "method=finetune",
        "method.epochs=1",
    ]
    return tmp_path / "hubert", options


def test_a_classifier_of_hugging_face_is_an_original(hubert, configure, tmp_path: Path, capsys) -> None:
    folder, options = hubert
    from transformers import AutoModelForAudioClassification

    output = tmp_path / "output"
    config = configure(f"output={output}", f"original.checkpoint={folder}", *options)
    check(config)
    pipeline.run(config)
    assert "pretrained weights (hubert" in " ".join(capsys.readouterr().out.split())
    theirs = AutoModelForAudioClassification.from_pretrained(folder).eval()
    shutil.rmtree(folder)  # the original stands on its own
    mine, parts = load_classifier(only(list(output.glob("original/*-*[0-9a-f]"))))
    assert parts["labels"] == ["word0", "word1", "word2", "word3"] and parts["model"]["pretrained"] is None
    sound = 0.1 * torch.randn(2, 8000)
    normal = (sound - sound.mean(1, keepdim=True)) / (sound.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        expected = theirs(normal).logits[:, [1, 2, 3, 0]]
        assert torch.allclose(mine(sound, torch.tensor([8000, 8000])).logits, expected, atol=1e-4)
    result = result_of(output)
    assert (
        "The original starts from pretrained weights (hubert, fine-tuned by the user): "
        "what pre-training learned of the forget utterances was not unlearned."
    ) in result["notes"]
    copy = copied(only(list(output.glob("original/*-*[0-9a-f]"))), tmp_path / "copy")
    again = configure(f"output={output}", f"original.checkpoint={copy}", *options, "only=original")
    pipeline.run(again)
    assert len(list(output.glob("original/*/DONE"))) == 2


def test_a_damaged_classifier_of_hugging_face_is_one_sentence(hubert, configure, tmp_path: Path) -> None:
    folder, options = hubert
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError) as raised:
        pipeline.run(configure(f"output={tmp_path / 'output'}", f"original.checkpoint={folder}", *options))
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
    assert not list((tmp_path / "output").glob("original/*"))


def test_a_head_that_is_not_made_of_rows_is_refused() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Bilinear(1, 1, 3)

        def forward(self, waveform, lengths):
            from speechforget.models.classifier import Output

            logits = waveform[:, :3] @ torch.arange(9.0).reshape(3, 3)
            return Output(logits, logits)

    with pytest.raises(RuntimeError, match="Bilinear"), torch.no_grad():
        reorder(Odd(), [1, 0, 2], 100)


def test_the_table_of_keys_lists_what_an_imported_original_is_made_of(alone: Path) -> None:
    (line,) = [
        line
        for line in (ROOT / "docs" / "identity.md").read_text().splitlines()
        if line.startswith("| original of a checkpoint |")
    ]
    inputs = json.loads(only(list(alone.glob("original/*/inputs.json"))).read_text())["inputs"]
    assert set(re.findall(r"`(\w+)`", line.split("|")[2])) == set(inputs)


def test_scores_are_read_as_they_were_written(alone: Path) -> None:
    for folder in (path.parent for path in alone.glob("scores/*/DONE")):
        columns = read_scores(folder)
        assert set(columns) == {"row", "label", "logits", "loss", "embedding"} and columns["logits"].dtype == np.float32
