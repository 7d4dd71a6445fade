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
from support.user_checkpoints import FILES, copied, only, result_of

from speechforget import pipeline
from speechforget.cli.plan import plan
from speechforget.cli.report import main as report
from speechforget.config.oracle import has_oracle, why_no_oracle
from speechforget.config.validate import check
from speechforget.models.checkpoint import read_checkpoint
from speechforget.models.folder import load_classifier
from speechforget.report.caveats import caveats
from speechforget.stages.score_files import read_scores
from speechforget.stages.split import split_corpus
from speechforget.store import Store

ROOT = Path(__file__).parents[2]


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


@pytest.mark.slow
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
