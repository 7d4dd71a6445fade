"""Artefacts are made once, whoever asks, whoever dies."""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from speechforget.errors import UserError
from speechforget.store import Store, canonical, code_hash, code_modules, differences, key_of
from speechforget.store.graph import read_graph

FROZEN_KEYS = {
    "empty": ("original", {}, "a64500a33f13"),
    "nested": ("oracle", {"seed": 0, "train": {"epochs": 30, "learning_rate": 1e-3}, "without": None}, "62bc6c5c2d84"),
}

spawn = multiprocessing.get_context("spawn")


def make(root: str, log: str, pause: float) -> None:
    def build(folder: Path, key: str) -> None:
        with Path(log).open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        (folder / "half").write_text("half")
        time.sleep(pause)
        (folder / "value").write_text(key)

    Store(Path(root)).produce("stage", "name", {"seed": 1}, build)


def test_processes_that_race_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [spawn.Process(target=make, args=(str(tmp_path), str(log), 0.5)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(log.read_text().splitlines()) == 1


def test_the_next_process_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = spawn.Process(target=make, args=(str(tmp_path), str(log), 60))
    first.start()
    while not list(tmp_path.glob("stage/*/half")):
        time.sleep(0.05)
    second = spawn.Process(target=make, args=(str(tmp_path), str(log), 0))
    second.start()
    time.sleep(0.3)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second.join(120)
    assert second.exitcode == 0
    assert len(list(tmp_path.glob("stage/*/DONE"))) == 1
    assert len(log.read_text().splitlines()) == 2


def test_a_finished_folder_is_found_and_not_built(tmp_path: Path) -> None:
    first = Store(tmp_path).produce("stage", "name", {"a": 1}, lambda folder, key: None)
    again = Store(tmp_path).produce("stage", "other words", {"a": 1}, lambda folder, key: None)
    found = Store(tmp_path).produce("stage", "name", {"a": 1}, lambda folder, key: pytest.fail("built again"))
    assert first.built and not found.built
    assert found.folder == first.folder
    assert again.key == first.key


def test_a_failed_build_is_built_again(tmp_path: Path) -> None:
    def fail(folder: Path, key: str) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Store(tmp_path).produce("stage", "name", {}, fail)
    assert Store(tmp_path).produce("stage", "name", {}, lambda folder, key: None).built


def test_a_folder_made_of_something_else_is_an_error_that_shows_the_difference(tmp_path: Path) -> None:
    artefact = Store(tmp_path).produce("stage", "name", {"train": {"epochs": 3}}, lambda folder, key: None)
    record = json.loads((artefact.folder / "inputs.json").read_text())
    record["inputs"]["train"]["epochs"] = 4
    (artefact.folder / "inputs.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"inputs\.train\.epochs: recorded 4, asked 3"):
        Store(tmp_path).produce("stage", "name", {"train": {"epochs": 3}}, lambda folder, key: None)


def test_an_unwritable_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output="):
        Store(tmp_path / "file").produce("stage", "name", {}, lambda folder, key: None)


@pytest.mark.parametrize("name", FROZEN_KEYS)
def test_keys_are_frozen(name: str) -> None:
    """A change here makes every user train everything again: raise a stage's VERSION instead, if results change."""
    stage, inputs, key = FROZEN_KEYS[name]
    assert key_of(stage, inputs)[:12] == key


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES))
def test_a_key_does_not_depend_on_order_or_on_tuples(inputs: dict) -> None:
    backwards = dict(reversed(list(inputs.items())))
    assert key_of("stage", inputs) == key_of("stage", backwards)
    assert list(differences(canonical(inputs), canonical(backwards))) == []


@given(st.dictionaries(st.text(), VALUES), st.text())
def test_another_input_gives_another_key(inputs: dict, name: str) -> None:
    assert key_of("stage", inputs) != key_of("stage", {**inputs, name: [inputs.get(name)]})


def test_whole_floats_and_integers_are_one_number() -> None:
    assert key_of("stage", {"epochs": 5}) == key_of("stage", {"epochs": 5.0})
    assert key_of("stage", {"rate": 1e-3}) == key_of("stage", {"rate": 0.001})
    assert key_of("stage", {"flag": True}) != key_of("stage", {"flag": 1})


@settings(max_examples=20)
@given(
    st.text(max_size=300)
    | st.sampled_from(["label" * 40, "語" * 90, 'a/b\\c:*?"<>|\0\n', "..", "-rf", "", "e\u0301 \ud800"])
)
def test_any_name_makes_a_folder_that_every_file_system_allows(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        made = Store(Path(place)).produce("original", name, {"seed": 0}, lambda folder, key: None)
        (found,) = read_graph(Path(place))
        assert found.folder == made.folder and made.folder.parent == Path(place) / "original" and found.state == "done"
        assert len(f"{made.folder.name}.lock".encode()) <= 128 and not set(made.folder.name) & set('/\\:*?"<>| \n\0')
        assert made.folder.name == f"{made.name}-{made.key[:12]}" and made.folder.name[0] not in ".-"


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


def test_code_counts_and_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_module(tmp_path, "toy_method_a", '"""One."""\nimport speechforget.errors\nx = 1\n')
    first = code_hash("toy_method_a.Toy")
    write_module(tmp_path, "toy_method_a", '"""Another."""\n# a comment\nimport speechforget.errors\n\nx   =   1\n')
    assert code_hash("toy_method_a.Toy") == first
    write_module(tmp_path, "toy_method_a", '"""One."""\nimport speechforget.errors\nx = 2\n')
    assert code_hash("toy_method_a.Toy") != first


def test_the_hash_of_code_is_the_same_in_every_version_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_module(
        tmp_path,
        "toy_method_b",
        "class Toy:\n    def run(self, x: int = 1, *, y=None) -> None:\n        return [x for x in (y or [])]\n",
    )
    assert code_hash("toy_method_b.Toy")[:12] == "924190f68a2d"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "conf").glob("m[eo]*/*.yaml")), ids=lambda path: path.stem
)
def test_a_key_holds_the_code_that_matters_and_no_other(path: Path) -> None:
    """A method or a model depends on its own part of the package and on what both share, not on stages or the store."""
    if path.parent.name == "metrics":
        return
    target = OmegaConf.load(path)._target_
    shared = {"batch", "draws", "dropout", "errors", "optimizers", "ranks", "torchaudio"}
    parts = {name.split(".")[1] for name in code_modules(target) if name != "speechforget"}
    assert parts <= {target.split(".")[1], *shared}
    assert "speechforget" not in code_modules(target)


def test_code_of_imported_modules_counts() -> None:
    assert code_hash("speechforget.methods.scrub.Scrub") != code_hash("speechforget.methods.salun.SalUn")
    with pytest.raises(UserError, match="no_such_package"):
        code_hash("no_such_package.module.Thing")
