"""Rewinding: kept epochs change nothing, and going back is a dial from the original to the oracle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.identity_table import documented, recorded
from support.stage_runs import DATASET, LABELS, MODEL, RECIPE, die_after, job, same_weights, trained
from support.tiny import options_of

from speechforget import pipeline
from speechforget.cli.plan import plan
from speechforget.cli.store import main as store_command
from speechforget.config.structured import kept_epochs
from speechforget.config.validate import check
from speechforget.data.batches.streams import Sources
from speechforget.errors import NotApplicable, UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.train import train
from speechforget.stages.unlearn import unlearn
from speechforget.store import Store

Configure = Callable[..., dict[str, Any]]


def kept(folder: Path, sources: Sources, epoch: int) -> Path:
    """The state of a training after some epochs."""
    train(job(folder), sources, LABELS, DATASET, MODEL, RECIPE, until=epoch)
    return folder


def rewound(folder: Path, start: Path, sources: Sources, **numbers: int) -> Path:
    unlearn(job(folder), start, sources, (), {**options_of("rewind"), **numbers}, recipe=RECIPE)
    return folder


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> list[Path]:
    place = tmp_path_factory.mktemp("states")
    return [kept(place / str(epoch), sources, epoch) for epoch in range(3)]


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Path:
    """Return the oracle."""
    rest = sources.with_rows(train=sources.rows["retain"])
    return trained(tmp_path_factory.mktemp("oracle") / "oracle", rest)


def distance(one: Path, other: Path) -> float:
    mine, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return sum(float((mine[name].double() - theirs[name].double()).square().sum()) for name in mine) ** 0.5


def test_a_training_that_continues_from_a_kept_epoch_is_the_whole_one(
    states: list[Path], original: Path, sources: Sources, tmp_path: Path
) -> None:
    train(job(tmp_path), sources, LABELS, DATASET, MODEL, RECIPE, start=states[2])
    assert same_weights(tmp_path, original)
    assert (tmp_path / "curves.csv").read_bytes() == (original / "curves.csv").read_bytes()
    spent = [json.loads((folder / "cost.json").read_text())["forward_backward"] for folder in (tmp_path, original)]
    assert spent[0] == spent[1]
    assert not (tmp_path / "state.ckpt").exists() and not (tmp_path / "checkpoint.ckpt").exists()


def test_all_the_way_back_is_the_oracle_to_the_bit(
    states: list[Path], retrained: Path, sources: Sources, tmp_path: Path
) -> None:
    assert same_weights(rewound(tmp_path, states[0], sources, epochs_back=RECIPE["epochs"]), retrained)


@pytest.mark.parametrize("back", [1, 2])
def test_without_a_request_it_goes_the_way_of_the_original(
    back: int, states: list[Path], original: Path, sources: Sources, tmp_path: Path
) -> None:
    """The optimiser, the schedule and all draws are those of the epochs that are made again."""
    nothing = sources.with_rows(retain=sources.rows["train"])
    assert same_weights(rewound(tmp_path, states[RECIPE["epochs"] - back], nothing, epochs_back=back), original)


def test_it_is_a_dial(states: list[Path], original: Path, retrained: Path, sources: Sources, tmp_path: Path) -> None:
    gaps = [distance(original, retrained)]
    gaps += [distance(rewound(tmp_path / str(k), states[3 - k], sources, epochs_back=k), retrained) for k in (1, 2, 3)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > gaps[2] > gaps[3] == 0


def test_other_numbers_of_epochs_end_where_the_schedule_ends(
    states: list[Path], sources: Sources, tmp_path: Path
) -> None:
    again = rewound(tmp_path / "same", states[1], sources, epochs_back=2)
    named = rewound(tmp_path / "named", states[1], sources, epochs_back=2, epochs=2)
    longer = rewound(tmp_path / "longer", states[1], sources, epochs_back=2, epochs=5)
    assert same_weights(again, named) and not same_weights(again, longer)
    assert len((longer / "curves.csv").read_text().splitlines()) == 1 + 5
    cost = json.loads((longer / "cost.json").read_text())
    assert cost["forward_backward"] == 5 * len(sources.rows["retain"])


def test_a_killed_rewinding_resumes_exactly(
    states: list[Path], sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = rewound(tmp_path / "quiet", states[1], sources, epochs_back=2)
    die_after(0, monkeypatch, lambda: rewound(tmp_path / "killed", states[1], sources, epochs_back=2))
    assert same_weights(rewound(tmp_path / "killed", states[1], sources, epochs_back=2), quiet)


def test_a_share_of_retain_is_all_that_it_sees(states: list[Path], sources: Sources, tmp_path: Path) -> None:
    rewound(tmp_path, states[2], sources, epochs_back=1, retain_share=0.5)
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["forward_backward"] == len(sources.rows["retain"]) / 2


@pytest.fixture(scope="module")
def runs(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that rewinds."""
    output = tmp_path_factory.mktemp("rewound")
    pipeline.run(configure(f"output={output}", *RUN))
    return output


RUN = ("method=rewind", "method.epochs_back=4", "original.keep_epochs=[2]")


def folders(output: Path, stage: str) -> list[Path]:
    return sorted(path.parent for path in output.glob(f"{stage}/*/DONE"))


def test_keeping_epochs_changes_neither_the_key_nor_the_weights_of_the_original(runs: Path, trained: Path) -> None:
    (mine,), (plain,) = folders(runs, "original"), folders(trained, "original")
    assert mine.name == plain.name and same_weights(mine, plain)
    assert recorded(runs)["kept_epoch"] == documented()["kept_epoch"]
    assert [path.name.split("-")[-2] for path in folders(runs, "kept_epoch")] == ["epoch0", "epoch2"]


def test_the_run_ends_in_the_oracle(runs: Path) -> None:
    (unlearned,), (oracle,) = folders(runs, "unlearned"), folders(runs, "oracle")
    assert same_weights(unlearned, oracle)
    result = json.loads((folders(runs, "result")[0] / "result.json").read_text())
    assert result["exact"] == "all epochs, made again without the request"
    assert "Exact by construction: the whole training" in " ".join(result["notes"])
    found = result["comparison"]
    assert found["unlearned"]["accuracy_forget"]["value"] == found["oracle"]["accuracy_forget"]["value"]


def test_kept_epochs_stay_as_long_as_the_original_and_can_be_rebuilt(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store_command(["gc", "--output", str(runs), "--yes"]) in (0, None)
    assert len(folders(runs, "kept_epoch")) == 2
    for folder in (*folders(runs, "kept_epoch"), *folders(runs, "unlearned"), *folders(runs, "original")):
        assert store_command(["verify", "--rebuild", str(folder), "--output", str(runs)]) in (0, None)
    assert "equal to the bit" in capsys.readouterr().out


def test_epochs_are_kept_on_the_way_also_beside_several_oracles(configure: Configure, tmp_path: Path) -> None:
    asked = plan(configure(f"output={tmp_path}", *RUN, "evaluation.oracles=3"))
    stages = [one.stage for one in asked]
    assert stages.index("kept_epoch") < stages.index("original") and stages.count("kept_epoch") == 3


def test_a_plan_names_the_kept_epochs(configure: Configure, runs: Path) -> None:
    planned = plan(configure(f"output={runs}", *RUN, "method.epochs_back=1"))
    states = {one.name.split("-")[-1]: one.state for one in planned if one.stage == "kept_epoch"}
    assert states == {"epoch2": "exists", "epoch3": "missing"}


def test_an_audit_rewinds_the_original_of_each_pair(configure: Configure, tmp_path: Path) -> None:
    asked = configure(f"output={tmp_path}", *RUN, "task=sample", "evaluation.pairs=4", "evaluation.oracles=4")
    assert "0a" in {training.part for training in pipeline.trainings(asked).values()}
    states = [one for one in plan(asked) if one.stage == "kept_epoch"]
    assert len({one.name for one in states if one.name.endswith("epoch0")}) == 9  # eight halves, and the run's own


def test_what_cannot_be_rewound_is_one_sentence(configure: Configure, tmp_path: Path) -> None:
    foreign = configure(f"output={tmp_path}", "method=rewind")
    foreign["original"] = {**foreign["original"], "checkpoint": "mine"}
    with pytest.raises(NotApplicable, match=r"^The method rewind goes back .* has only its last one: train the"):
        Pipeline(foreign, Store(tmp_path)).check_applicable()
    foreign["original"]["keep_epochs"] = [1]
    with pytest.raises(NotApplicable, match=r"no effect with original\.checkpoint"):
        check(foreign)
    for wrong in ("method.epochs_back=5", "method.epochs_back=0"):
        with pytest.raises(UserError, match=r"whole number from 1 to 4, as train\.epochs=4"):
            Pipeline(configure(f"output={tmp_path}", "method=rewind", wrong), Store(tmp_path)).check_applicable()
    for wrong in ("[4]", "[-1]", "[1.5]", "[a]", "3"):
        with pytest.raises(UserError, match="must be a list of epochs from 0 to 3"):
            check(configure(f"original.keep_epochs={wrong}"))


@pytest.mark.parametrize("method", [["method=rewind"], ["method=sisa", "train=sisa"]])
def test_a_model_that_forgot_has_no_earlier_states(method: list[str], configure: Configure) -> None:
    """Refused for the whole sequence, before its first request is trained."""
    with pytest.raises(NotApplicable, match=r"(an earlier request left has only its last one|trained here, not the)"):
        check(configure("task=class", "task.requests=[word0,word1]", *method, "train.epochs=4"))


def test_the_epochs_of_a_run_are_those_asked_for_and_the_one_rewound_to(configure: Configure) -> None:
    assert kept_epochs(configure()) == []
    assert kept_epochs(configure("original.keep_epochs=[3,1]")) == [1, 3]
    assert kept_epochs(configure("original.keep_epochs=[3,1]", "method=rewind", "method.epochs_back=2")) == [1, 2, 3]


@pytest.mark.slow
def test_two_processes_rewind_as_one(configure: Configure, tmp_path: Path) -> None:
    exact = ("trainer.precision=64-true", "model.dropout=0", "method=rewind", "method.epochs_back=2")
    for devices in (1, 2):
        pipeline.run(configure(f"output={tmp_path / str(devices)}", f"trainer.devices={devices}", *exact))
    one, two = (load_file(folders(tmp_path / name, "unlearned")[0] / "weights.safetensors") for name in "12")
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-9) for name in one)


def test_a_damaged_state_is_an_error_that_names_it(configure: Configure, runs: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runs, tmp_path / "copy"))
    (state,) = copied.glob("kept_epoch/*epoch2*/state.ckpt")
    content = bytearray(state.read_bytes())
    content[1000] ^= 1
    state.write_bytes(content)
    with pytest.raises(UserError, match=r"state\.ckpt"):
        pipeline.run(configure(f"output={copied}", "method=rewind", "method.epochs_back=2"))
