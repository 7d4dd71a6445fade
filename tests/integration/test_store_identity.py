"""docs/identity.md says what is in the keys that the pipeline really uses; what a folder says of itself is enough to make it again."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from speechforget import pipeline
from speechforget.cli import rebuild
from speechforget.cli.store import main
from speechforget.store import key_of, read_done
from speechforget.store.difference import first_difference
from speechforget.store.manifest import write_done

DOCUMENT = Path(__file__).parents[2] / "docs" / "identity.md"
ROW = re.compile(r"\| (?P<stage>\w+) \| (?P<inputs>(?:`\w+`(?:, )?)+) \| .+ \|")


@pytest.fixture(scope="module")
def recorded(configure, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict]:
    """inputs.json of every artefact of one run."""
    output = tmp_path_factory.mktemp("identity")
    pipeline.run(configure(f"output={output}", "train.epochs=1", "method=ssd"))
    return {path.parent: json.loads(path.read_text()) for path in output.glob("*/*/inputs.json")}


def output_of(recorded: dict[Path, dict]) -> Path:
    return next(iter(recorded)).parents[1]


def folder_of(output: Path, stage: str) -> Path:
    return next(path.parent for path in sorted((output / stage).glob("*/DONE")))


def documented() -> dict[str, set[str]]:
    rows = [found for line in DOCUMENT.read_text().splitlines() if (found := ROW.fullmatch(line))]
    return {row["stage"]: set(re.findall(r"`(\w+)`", row["inputs"])) for row in rows}


def test_the_table_lists_the_inputs_of_every_stage(recorded: dict[Path, dict]) -> None:
    used = {record["stage"]: set(record["inputs"]) for record in recorded.values()}
    assert documented() == used


def test_a_folder_is_named_by_its_inputs(recorded: dict[Path, dict]) -> None:
    for folder, record in recorded.items():
        key = key_of(record["stage"], record["inputs"])
        assert folder.name.endswith(f"-{key[:12]}")
        done = json.loads((folder / "DONE").read_text())
        assert done["key"] == key
        assert "inputs.json" in done["files"] and "DONE" not in done["files"]


def test_the_original_of_the_table_knows_no_request(recorded: dict[Path, dict]) -> None:
    (original,) = [record for record in recorded.values() if record["stage"] == "original"]
    assert original["inputs"]["without"] is None


def verify(output: Path, *arguments: str) -> int:
    return main(["verify", "--rebuild", "--output", str(output), *arguments])


@pytest.mark.parametrize("stage", ["split", "original", "importance", "scores", "result"])
def test_an_artefact_is_made_again_to_the_bit(stage: str, recorded: dict[Path, dict], capsys) -> None:
    folder = folder_of(output_of(recorded), stage)
    before = sorted(path for path in output_of(recorded).rglob("*") if "cache" not in path.parts)
    assert verify(output_of(recorded), str(folder)) == 0
    assert f"{folder}: the same to the bit" in capsys.readouterr().out
    assert sorted(path for path in output_of(recorded).rglob("*") if "cache" not in path.parts) == before


def plant(folder: Path, change: Callable[[Path], None]) -> None:
    """Changes a folder so that its own record does not show it."""
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


def test_of_two_folders_with_one_key_the_finished_one_of_that_name_is_read(recorded, tmp_path: Path, capsys) -> None:
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


def test_what_cannot_be_made_again_is_said(recorded, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    folder = folder_of(output_of(recorded), "scores")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "code_of", lambda *targets: "edited")
        assert verify(output_of(recorded), str(folder)) == 1
    assert "cannot be made again, since what makes its scores has changed (code: was" in capsys.readouterr().out
    monkeypatch.setattr(rebuild, "_about", lambda node: {})
    assert verify(output_of(recorded), str(folder)) == 1
    assert "does not record the config" in capsys.readouterr().out


@pytest.mark.nightly
def test_every_artefact_of_a_sweep_is_made_again_to_the_bit(configure, tmp_path: Path, capsys) -> None:
    for method in ("scrub", "ssd", "salun", "fisher", "finetune"):
        for task in ("task=class", "task=sample", "task=sample task.by=speaker"):
            pipeline.run(configure(f"output={tmp_path}", f"method={method}", *task.split()))
    pipeline.run(configure(f"output={tmp_path}", "trainer.devices=2", "seed=1"))
    (original,) = (path.parent for path in tmp_path.glob("original/*seed1*/DONE"))
    pipeline.run(configure(f"output={tmp_path}", f"original.checkpoint={original}", "oracle=train"))
    count = len(list(tmp_path.glob("*/*/inputs.json")))
    assert verify(tmp_path) == 0
    assert capsys.readouterr().out.count("the same to the bit") == count


Write = Callable[[Path, Any], None]


def write_text(path: Path, text: Any) -> None:
    path.write_text(text)


def write_tensor(path: Path, value: Any) -> None:
    save_file({"w": torch.tensor(value)}, path)


@pytest.mark.parametrize(
    ("name", "write", "old", "new", "tolerance", "found"),
    [
        ("a.npy", np.save, np.float32([1, 2]), np.float32([1, 2]), 0, None),
        (
            "a.npy",
            np.save,
            np.float32([0, 1]),
            np.float32([-0.0, 1]),
            0,
            "a.npy: [0] was 0.0, is -0.0; 1 of 2 values differ",
        ),
        ("a.npy", np.save, np.float32([np.nan, 1]), np.float32([np.nan, 1]), 0, None),
        (
            "a.npy",
            np.save,
            np.float32([np.nan, 1]),
            np.float32([2, 1]),
            0.1,
            "a.npy: [0] was nan, is 2.0; 1 of 2 values differ",
        ),
        ("a.npy", np.save, np.float64([1, 100]), np.float64([1.05, 100]), 1e-3, None),
        (
            "a.npy",
            np.save,
            np.float64([1, 100]),
            np.float64([1.2, 100]),
            1e-3,
            "a.npy: [0] was 1.0, is 1.2; 1 of 2 values differ",
        ),
        (
            "a.npy",
            np.save,
            np.int64([[1], [3]]),
            np.int64([[1], [4]]),
            0.9,
            "a.npy: [1, 0] was 3, is 4; 1 of 2 values differ",
        ),
        ("a.npy", np.save, np.int64([1]), np.int32([1]), 0, "a.npy: was int64 (1,), is int32 (1,)"),
        ("w.safetensors", write_tensor, 1.0, 1.5, 0, "w.safetensors: w[0] was 1.0, is 1.5; 1 of 1 values differ"),
        (
            "a.csv",
            write_text,
            "id,loss\nx,0.5\n",
            "id,loss\nx,0.50001\n",
            0,
            "a.csv: line 2, column loss was '0.5', is '0.50001'",
        ),
        ("a.csv", write_text, "id,loss\nx,0.5\n", "id,loss\nx,0.50001\n", 1e-3, None),
        ("a.csv", write_text, "id,loss\nx,0.5\n", "id,loss\n", 1e-3, "a.csv: had 2 lines, has 1"),
        (
            "a.json",
            write_text,
            '{"commit": "a", "b": {"c": [1, 2.0]}}',
            '{"commit": "b", "b": {"c": [1, 2.0]}}',
            0,
            None,
        ),
        ("cost.json", write_text, '{"seconds": 1, "forward": 3}', '{"seconds": 2, "forward": 3}', 0, None),
        (
            "cost.json",
            write_text,
            '{"shared": {"forward": 3}}',
            '{"shared": {"forward": 4}}',
            0,
            "cost.json: shared.forward was 3, is 4",
        ),
        ("a.json", write_text, '{"cost": {"x": {"seconds": 1}}}', '{"cost": {"x": {"seconds": 2}}}', 0, None),
        (
            "a.json",
            write_text,
            '{"cost": {"x": {"forward": 1}}}',
            '{"cost": {"x": {"forward": 2}}}',
            0,
            "a.json: cost.x.forward was 1, is 2",
        ),
        ("model.json", write_text, '{"seconds": 1}', '{"seconds": 2}', 0, "model.json: seconds was 1, is 2"),
        ("a.json", write_text, '{"b": {"c": 1}}', '{"b": {"c": 2}}', 0, "a.json: b.c was 1, is 2"),
        ("forget.txt", write_text, "a\nb\n", "a\nc\n", 0.5, "forget.txt: line 2 was b'b', is b'c'"),
    ],
)
def test_the_first_difference_is_named(
    name: str, write: Write, old: Any, new: Any, tolerance: float, found: str | None, tmp_path: Path
) -> None:
    for folder, value in (("old", old), ("new", new)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, value)
        (tmp_path / folder / "about.json").write_text(folder)
    assert first_difference(tmp_path / "old", tmp_path / "new", tolerance) == found
    (tmp_path / "new" / name).unlink()
    assert first_difference(tmp_path / "old", tmp_path / "new", tolerance) == f"{name} is not made any more"
