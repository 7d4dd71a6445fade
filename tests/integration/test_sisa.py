"""Shards and slices: what is trained again, that it is exact, what it costs, and what else works with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.stage_runs import DATASET, LABELS, MODEL, RECIPE, die_after, job, same_weights
from support.tiny import options_of

from speechforget import pipeline
from speechforget.cli.store import main as store_command
from speechforget.config.validate import check
from speechforget.data.batches.streams import Sources
from speechforget.errors import NotApplicable, UserError
from speechforget.export.model_folder import export
from speechforget.inference import load
from speechforget.pipeline import Pipeline
from speechforget.stages.sisa import CELLS, RECORD, Shards
from speechforget.stages.train import description
from speechforget.stages.unlearn import unlearn
from speechforget.store import Store
from speechforget.training.cost_meter import Cost
from speechforget.training.loop import finish

Configure = Callable[..., dict[str, Any]]
Run = Callable[..., subprocess.CompletedProcess[str]]

SISA = {**RECIPE, "sisa": {"shards": 3, "slices": 2, "by": "utterance", "seed": 0}}
PARTS = description(MODEL, LABELS, DATASET)
CELLS_OF = np.stack([np.arange(48) // 3 % 3, np.arange(48) // 9 % 2], axis=1)  # rows 0 to 8 are in slice 0


def ensemble(folder: Path, sources: Sources, without: Sequence[int] = ()) -> Path:
    """Train an ensemble from scratch."""
    rest = sources.with_rows(train=np.setdiff1d(sources.rows["train"], list(without)))
    cost = Cost()
    with cost:
        found = Shards(job(folder), rest, CELLS_OF, PARTS, SISA, cost, 0).train()
    finish(job(folder), found, PARTS, cost)
    return folder


def forgotten(folder: Path, original: Path, sources: Sources, forget: Sequence[int]) -> Path:
    """Run the method."""
    request = sources.with_rows(forget=np.array(forget), retain=np.setdiff1d(sources.rows["train"], list(forget)))
    unlearn(job(folder), original, request, (), options_of("sisa"), recipe=SISA)
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text())


def trained(folder: Path) -> dict[int, list[int]]:
    return {shard: told["trained"] for shard, told in enumerate(record(folder)["shards"]) if told["trained"]}


def cost(folder: Path) -> int:
    return int(json.loads((folder / "cost.json").read_text())["forward_backward"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Path:
    """Return the original; tests must not change it."""
    return ensemble(tmp_path_factory.mktemp("sisa") / "original", sources)


# What is forgotten -> slices that are trained again, by shard.
REQUESTS = {
    "a first slice": ([0], {0: [0, 1]}),
    "a last slice": ([9, 10], {0: [1]}),
    "two shards": ([12, 5], {1: [0, 1]}),
    "three shards": ([0, 12, 33], {0: [0, 1], 1: [1], 2: [1]}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_only_what_held_the_request_is_trained_again_and_the_rest_is_exact(
    name: str, whole: Path, sources: Sources, tmp_path: Path
) -> None:
    forget, again = REQUESTS[name]
    found = forgotten(tmp_path / "unlearned", whole, sources, forget)
    assert same_weights(found, ensemble(tmp_path / "oracle", sources, forget))
    assert not same_weights(found, whole)
    assert trained(found) == again or name == "two shards"
    mine, old = (load_file(folder / "weights.safetensors") for folder in (found, whole))
    kept = [key for key in mine if int(key.split(".")[1]) not in trained(found)]
    assert all(torch.equal(mine[key], old[key]) for key in kept)


def test_the_cost_is_that_of_the_slices_that_are_trained_again(whole: Path, sources: Sources, tmp_path: Path) -> None:
    """Of E = 3 epochs and R = 2 slices, each slice gets 2: passes over 6, then over 12 utterances of a shard."""
    assert record(whole)["epochs"] == [2, 2]
    assert [told["utterances"] for told in record(whole)["shards"]] == [[6, 6]] * 3
    assert cost(whole) == 3 * (2 * 6 + 2 * 12)
    assert cost(forgotten(tmp_path / "first", whole, sources, [0])) == 2 * 5 + 2 * 11
    assert cost(forgotten(tmp_path / "last", whole, sources, [9])) == 2 * 11


def test_a_second_request_goes_on_from_the_first(whole: Path, sources: Sources, tmp_path: Path) -> None:
    first = forgotten(tmp_path / "first", whole, sources, [9])
    rest = sources.with_rows(train=np.setdiff1d(sources.rows["train"], [9]))
    second = forgotten(tmp_path / "second", first, rest, [13])
    assert trained(second) == {1: [1]}
    assert same_weights(second, ensemble(tmp_path / "oracle", sources, [9, 13]))


def test_an_empty_shard_leaves_the_ensemble_and_an_empty_slice_stays(
    whole: Path, sources: Sources, tmp_path: Path
) -> None:
    shard = [row for row in range(36) if CELLS_OF[row, 0] == 1]
    found = forgotten(tmp_path / "shard", whole, sources, shard)
    assert record(found)["members"] == [0, 2] and trained(found) == {}
    assert same_weights(found, ensemble(tmp_path / "oracle", sources, shard))
    first = [row for row in shard if CELLS_OF[row, 1] == 0]
    found = forgotten(tmp_path / "slice", whole, sources, first)
    assert trained(found) == {1: [1]}
    assert same_weights(found, ensemble(tmp_path / "without", sources, first))
    with pytest.raises(UserError, match="No utterance is left to train on"):
        forgotten(tmp_path / "all", whole, sources, range(36))


@pytest.mark.parametrize("after", ["an epoch", "a slice"])
def test_a_killed_training_resumes_exactly_and_counts_its_cost_once(
    after: str, whole: Path, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    die_after(0, monkeypatch, lambda: ensemble(killed, sources))
    if after == "a slice":
        shutil.copytree(whole / "slices" / "0-0", killed / "slices" / "0-0", dirs_exist_ok=True)
    assert not (killed / "weights.safetensors").exists()
    assert same_weights(ensemble(killed, sources), whole)
    assert cost(killed) == cost(whole) and not list(killed.rglob("*.ckpt"))
    assert (killed / "curves.csv").read_text() == (whole / "curves.csv").read_text()


@pytest.mark.slow
def test_double_precision_is_kept(sources: Sources, tmp_path: Path) -> None:
    """A slice that is reused has the very numbers that were trained."""
    settings = replace(job(tmp_path / "a"), trainer={**job(tmp_path / "a").trainer, "precision": "64-true"})
    whole = Shards(settings, sources, CELLS_OF, PARTS, SISA, Cost(), 0)
    finish(settings, whole.train(), PARTS, Cost())
    again = replace(settings, folder=job(tmp_path / "b").folder)
    rest = sources.with_rows(train=np.setdiff1d(sources.rows["train"], [9]))
    found = Shards(again, rest, CELLS_OF, PARTS, SISA, Cost(), 0).train(tmp_path / "a")
    scratch = replace(settings, folder=job(tmp_path / "c").folder)
    wanted = Shards(scratch, rest, CELLS_OF, PARTS, SISA, Cost(), 0).train()
    for one, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert next(found.parameters()).dtype == torch.float64


RUN = ("train=sisa", "train.epochs=3", "train.batch_size=8", "train.sisa.shards=3", "method=sisa")


@pytest.fixture(scope="module")
def runs(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a run by speakers."""
    output = tmp_path_factory.mktemp("shards")
    request = ("task=sample", "task.by=speaker", "task.values=[speaker1]", "train.sisa.by=speaker")
    request += ("train.sisa.shards=2",)
    pipeline.run(configure(f"output={output}", *RUN, *request))
    return output


def one(output: Path, stage: str) -> Path:
    (folder,) = (path.parent for path in output.glob(f"{stage}/*/DONE"))
    return folder


def test_a_speaker_is_in_one_slice_and_the_result_says_what_was_exact(runs: Path) -> None:
    unlearned, oracle = one(runs, "unlearned"), one(runs, "oracle")
    assert same_weights(unlearned, oracle) and len(trained(unlearned)) == 1 and len(trained(oracle)) == 2
    found = json.loads((one(runs, "result") / "result.json").read_text())
    exact = [note for note in found["notes"] if "exact" in note.lower() or "to the bit" in note]
    assert exact[0].startswith("Exact by construction: ") and "in 1 of 2 shards, were trained again" in exact[0]
    assert exact[1] == "The weights of the unlearned model are those of the oracle, to the bit."
    assert found["exact"] == "all shards that held the request, trained again without"
    values = found["comparison"]
    assert values["unlearned"]["accuracy_forget"] == values["oracle"]["accuracy_forget"]


def test_the_ensemble_hears_like_any_model(runs: Path, tones: Path) -> None:
    recogniser = load(one(runs, "result"))
    heard = recogniser.classify(sorted(tones.glob("word0/*.wav"))[0])
    assert heard.label in {f"word{number}" for number in range(4)}


@pytest.mark.slow
def test_the_record_of_an_ensemble_is_reproduced(command: Run, runs: Path, tmp_path: Path) -> None:
    """Also the weights of slices, which lie in folders of their own."""
    copied = Path(shutil.copytree(runs, tmp_path / "copy"))
    assert command("report", str(copied)).returncode == 0
    assert "Nothing is wrong" in command("verify", str(copied / "report.html")).stdout
    path = one(copied, "original") / "slices" / "0-0" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    told = command("verify", str(copied / "report.html")).stdout
    assert "slices/0-0/weights.safetensors changed since the record was made" in told


@pytest.mark.slow
def test_it_leaves_in_every_format(runs: Path, tmp_path: Path) -> None:
    told = export(one(runs, "result"), tmp_path / "export")["files"]
    made = json.loads((tmp_path / "export" / "export.json").read_text())
    assert {name for name, each in made["formats"].items() if each["made"]} >= {"folder", "onnx"}, (made, told)


@pytest.mark.slow
def test_attacks_read_an_ensemble(configure: Configure, tmp_path: Path) -> None:
    request = ("evaluation=full", "evaluation.oracles=1", "evaluation.objective=accuracy")
    pipeline.run(configure(f"output={tmp_path}", *RUN, *request))
    found = json.loads((one(tmp_path, "result") / "result.json").read_text())["comparison"]["unlearned"]
    assert any(name.startswith("probe") for name in found) and any(name.startswith("relearn") for name in found)


@pytest.mark.slow
def test_it_can_be_rebuilt(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("original", "unlearned"):
        assert store_command(["verify", "--rebuild", str(one(runs, stage)), "--output", str(runs)]) in (0, None)
    assert capsys.readouterr().out.count("equal to the bit") == 2


def test_a_damaged_slice_is_an_error_that_names_it(configure: Configure, runs: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runs, tmp_path / "copy"))
    path = one(copied, "original") / "slices" / "0-0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for stage in ("unlearned", "result"):
        shutil.rmtree(one(copied, stage))
    request = ("task=sample", "task.by=speaker", "task.values=[speaker1]", "train.sisa.by=speaker")
    with pytest.raises(UserError, match=r"slices/0-0/weights\.safetensors"):
        pipeline.run(configure(f"output={copied}", *RUN, *request, "train.sisa.shards=2"))


def test_other_methods_and_other_originals_are_refused_in_one_sentence(configure: Configure, tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(NotApplicable) as caught:
            Pipeline(configure(f"output={tmp_path}", *overrides), Store(tmp_path)).check_applicable()
        return str(caught.value)

    assert refused("method=sisa").endswith("train it with train=sisa.")
    assert refused(*RUN, "method=scrub").startswith("The method scrub changes all members of an ensemble at once")
    assert "use method=sisa" in refused(*RUN, "method=rewind")
    Pipeline(configure(f"output={tmp_path}", *RUN, "method=none"), Store(tmp_path)).check_applicable()
    with pytest.raises(NotApplicable, match="has no effect with train=sisa"):
        check(configure(*RUN, "original.keep_epochs=[1]"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("train.sisa.shards=0", r"train\.sisa\.shards must be a whole number of at least 1"),
        ("train.sisa.slices=6", "use at most 5 slices, or more epochs"),
        ("train.sisa.by=word", r"There is no train\.sisa\.by=word"),
        ("train.sisa=3", "must have the keys shards, slices, by, seed"),
        ("+train.sisa.more=1", "must have the keys shards, slices, by, seed"),
    ],
)
def test_wrong_numbers_are_one_sentence(wrong: str, words: str, configure: Configure) -> None:
    with pytest.raises(UserError, match=words):
        check(configure(*RUN, wrong))


@pytest.mark.slow
def test_two_processes_train_the_same_ensemble(configure: Configure, tmp_path: Path) -> None:
    exact = ("trainer.precision=64-true", "model.dropout=0", *RUN)
    for devices in (1, 2):
        pipeline.run(configure(f"output={tmp_path / str(devices)}", f"trainer.devices={devices}", *exact))
    alone, shared = (load_file(one(tmp_path / name, "unlearned") / "weights.safetensors") for name in "12")
    assert all(torch.allclose(alone[name], shared[name], rtol=0, atol=1e-9) for name in alone)
    assert same_weights(one(tmp_path / "2", "unlearned"), one(tmp_path / "2", "oracle"))


def test_cells_are_kept_with_the_ensemble(whole: Path) -> None:
    assert np.array_equal(np.load(whole / CELLS), CELLS_OF)
