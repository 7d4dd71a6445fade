"""Compare docs/identity.md with the keys that the pipeline uses, and rebuild artefacts from their own record."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.identity_table import documented
from support.identity_table import recorded as inputs_of

from speechforget import pipeline
from speechforget.cli import rebuild
from speechforget.cli.store import main
from speechforget.store import key_of, read_done
from speechforget.store.manifest import write_done

ELSEWHERE = {"audit", "power", "untrained", "kept_epoch", "sequence"}  # what only runs of other tests have


@pytest.fixture(scope="module")
def recorded(configure, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict]:
    """Run one small experiment and return `inputs.json` of every artefact by its folder."""
    output = tmp_path_factory.mktemp("identity")
    attack = "evaluation.attacks=[{_target_: speechforget.attacks.noise_ball.NoiseBall, snr: [10], draws: 1, most: 9}]"
    pipeline.run(configure(f"output={output}", "train.epochs=1", "method=ssd", "evaluation.groups=[speaker]", attack))
    return {path.parent: json.loads(path.read_text()) for path in output.glob("*/*/inputs.json")}


def output_of(recorded: dict[Path, dict]) -> Path:
    return next(iter(recorded)).parents[1]


def folder_of(output: Path, stage: str) -> Path:
    return next(path.parent for path in sorted((output / stage).glob("*/DONE")))


def test_the_table_lists_the_inputs_of_every_stage(recorded: dict[Path, dict]) -> None:
    used, told = inputs_of(output_of(recorded)), documented()
    assert used["result"] == told["result"] - ELSEWHERE
    assert {**used, "result": told["result"]} == {stage: told[stage] for stage in told.keys() - ELSEWHERE}


def test_a_folder_is_named_by_its_inputs(recorded: dict[Path, dict]) -> None:
    for folder, record in recorded.items():
        key = key_of(record["stage"], record["inputs"])
        assert folder.name.endswith(f"-{key[:12]}")
        done = json.loads((folder / "DONE").read_text())
        assert done["key"] == key
        assert "inputs.json" in done["files"] and "DONE" not in done["files"]


def test_the_key_of_an_original_contains_no_request(recorded: dict[Path, dict]) -> None:
    (original,) = [record for record in recorded.values() if record["stage"] == "original"]
    assert original["inputs"]["without"] is None


def verify(output: Path, *arguments: str) -> int:
    return main(["verify", "--rebuild", "--output", str(output), *arguments])


def test_artefacts_are_rebuilt_to_the_bit(recorded: dict[Path, dict], capsys) -> None:
    output = output_of(recorded)
    folders = [folder_of(output, stage) for stage in ("split", "original", "importance", "scores", "result")]
    before = sorted(path for path in output.rglob("*") if "cache" not in path.parts)
    assert verify(output, *map(str, folders)) == 0
    out = capsys.readouterr().out
    assert all(f"{folder}: equal to the bit" in out for folder in folders)
    assert sorted(path for path in output.rglob("*") if "cache" not in path.parts) == before


def plant(folder: Path, change: Callable[[Path], None]) -> None:
    """Change a folder and its record together, so that only a rebuild finds the change."""
    record = read_done(folder)
    assert record is not None
    change(folder)
    write_done(folder, record["key"], lambda: None)


def move_weight(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    weights["head.weight"][2, 1] += 1e-3
    save_file(weights, folder / "weights.safetensors")


def move_loss(folder: Path) -> None:
    path = next(folder.rglob("loss.npy"))
    loss = np.load(path)
    loss[7] *= 2
    np.save(path, loss)


PLANTED = [
    ("original", move_weight, r"weights.safetensors: head.weight\[2, 1\] was"),
    ("scores", move_loss, r"loss.npy: \[7\] was"),
]


@pytest.mark.parametrize(("stage", "change", "named"), PLANTED)
def test_a_planted_difference_is_named(
    stage: str, change: Callable[[Path], None], named: str, recorded, tmp_path: Path, capsys
) -> None:
    shutil.copytree(output_of(recorded), tmp_path / "out", symlinks=True)
    folder = folder_of(tmp_path / "out", stage)
    plant(folder, change)
    assert main(["verify", "--output", str(tmp_path / "out"), str(folder)]) == 0
    assert verify(tmp_path / "out", str(folder)) == 1
    out = capsys.readouterr().out
    assert (
        re.search(rf"{re.escape(str(folder))}: differs: .*{named} \S+, is \S+; 1 of \d+ values differ", out)
        and "1 bad" in out
    )
    if stage == "original":
        assert verify(tmp_path / "out", str(folder), "--tolerance", "0.1") == 0


def test_scores_are_rebuilt_from_the_finished_model_of_their_name(recorded, tmp_path: Path, capsys) -> None:
    shutil.copytree(output_of(recorded), tmp_path / "out", symlinks=True)
    original = folder_of(tmp_path / "out", "original")
    for name in ("another", "unfinished"):
        shutil.copytree(original, original.with_name(f"{name}-{original.name[-12:]}"))
    plant(original.with_name(f"another-{original.name[-12:]}"), move_weight)
    (original.with_name(f"unfinished-{original.name[-12:]}") / "DONE").unlink()
    scores = tmp_path / "out" / "scores"
    assert verify(tmp_path / "out", *(str(path) for path in scores.glob(f"{original.name[:-13]}-*"))) == 0
    assert verify(tmp_path / "out", original.name[-12:]) == 1
    assert "names 3 artefacts (" in (said := capsys.readouterr().err) and "give one of these names" in said


def test_an_artefact_that_cannot_be_rebuilt_is_an_error(recorded, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    folder = folder_of(output_of(recorded), "scores")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "code_of", lambda *targets: "edited")
        assert verify(output_of(recorded), str(folder)) == 1
    assert "cannot be rebuilt, because the inputs of its scores have changed (code: was" in capsys.readouterr().out
    monkeypatch.setattr(rebuild, "_about", lambda node: {})
    assert verify(output_of(recorded), str(folder)) == 1
    assert "did not record the config" in capsys.readouterr().out


@pytest.mark.nightly
def test_every_artefact_of_a_sweep_is_rebuilt_to_the_bit(configure, tmp_path: Path, capsys) -> None:
    for method in ("scrub", "ssd", "salun", "fisher", "finetune"):
        for task in ("task=class", "task=sample", "task=sample task.by=speaker"):
            pipeline.run(configure(f"output={tmp_path}", f"method={method}", *task.split()))
    pipeline.run(configure(f"output={tmp_path}", "trainer.devices=2", "seed=1"))
    (original,) = (path.parent for path in tmp_path.glob("original/*seed1*/DONE"))
    pipeline.run(configure(f"output={tmp_path}", f"original.checkpoint={original}", "oracle=train"))
    count = len(list(tmp_path.glob("*/*/inputs.json")))
    assert verify(tmp_path) == 0
    assert capsys.readouterr().out.count("equal to the bit") == count
