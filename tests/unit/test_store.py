"""Keys are stable, artefacts are built once, and a key contains exactly the code that matters."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save_file

from speechforget.errors import UserError
from speechforget.store import Store, canonical, code_hash, code_modules, differences, key_of
from speechforget.store.graph import read_graph

CONF = Path(__file__).parents[2] / "conf"
FROZEN_KEYS = [
    ("original", {}, "a64500a33f13"),
    ("oracle", {"seed": 0, "train": {"epochs": 30, "learning_rate": 1e-3}, "without": None}, "62bc6c5c2d84"),
]


def test_a_finished_folder_is_found_and_not_built(tmp_path: Path) -> None:
    first = Store(tmp_path).produce("stage", "name", {"a": 1}, lambda folder, key: None)
    renamed = Store(tmp_path).produce("stage", "other words", {"a": 1}, lambda folder, key: None)
    found = Store(tmp_path).produce("stage", "name", {"a": 1}, lambda folder, key: pytest.fail("built again"))
    assert first.built and not found.built
    assert found.folder == first.folder
    assert renamed.key == first.key


def test_a_folder_with_other_inputs_is_an_error_that_shows_the_difference(tmp_path: Path) -> None:
    artefact = Store(tmp_path).produce("stage", "name", {"train": {"epochs": 3}}, lambda folder, key: None)
    record = json.loads((artefact.folder / "inputs.json").read_text())
    record["inputs"]["train"]["epochs"] = 4
    (artefact.folder / "inputs.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"inputs\.train\.epochs: recorded 4, asked 3"):
        Store(tmp_path).produce("stage", "name", {"train": {"epochs": 3}}, lambda folder, key: None)


def test_files_of_an_artefact_are_as_open_as_the_umask_allows(tmp_path: Path) -> None:
    """safetensors makes files that nobody else in a team could read."""

    def build(folder: Path, key: str) -> None:
        save_file({"weight": torch.zeros(1)}, folder / "weights.safetensors")
        (folder / "tool.sh").write_text("")
        (folder / "tool.sh").chmod(0o700)

    folder = Store(tmp_path).produce("stage", "name", {}, build).folder
    usual = (folder / "inputs.json").stat().st_mode & 0o777
    assert (folder / "weights.safetensors").stat().st_mode & 0o777 == usual
    assert (folder / "tool.sh").stat().st_mode & 0o777 == 0o700 | usual


def test_an_unwritable_output_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output="):
        Store(tmp_path / "file").produce("stage", "name", {}, lambda folder, key: None)


def test_keys_are_frozen() -> None:
    """A new key makes every user train everything again; if results change, raise the VERSION of a stage instead."""
    for stage, inputs, key in FROZEN_KEYS:
        assert key_of(stage, inputs)[:12] == key


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), VALUES))
def test_a_key_does_not_depend_on_order_or_on_tuples(inputs: dict) -> None:
    backwards = dict(reversed(list(inputs.items())))
    assert key_of("stage", inputs) == key_of("stage", backwards)
    assert list(differences(canonical(inputs), canonical(backwards))) == []


@settings(max_examples=30)
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


def test_a_key_contains_the_code_that_matters_and_no_other() -> None:
    """A method or a model depends on its own folder and on shared code, not on stages or the store."""
    shared = {
        "_torchaudio",
        "batch",
        "distributed.batch_norm",
        "distributed.collectives",
        "distributed.dropout",
        "optimizers",
        "recognition.ctc",
        "seeding",
    }
    paths = sorted([*CONF.glob("method/*.yaml"), *CONF.glob("model/*.yaml")])
    assert len(paths) > 50
    for path in paths:
        target = str(OmegaConf.load(path)._target_)
        modules = {name.removeprefix("speechforget.") for name in code_modules(target)}
        own = f"{target.split('.')[1]}."
        assert {name for name in modules if not name.startswith(own)} <= shared, path
        assert "speechforget" not in modules, path


def test_code_of_imported_modules_counts() -> None:
    assert code_hash("speechforget.methods.scrub.Scrub") != code_hash("speechforget.methods.salun.SalUn")
    with pytest.raises(UserError, match="no_such_package"):
        code_hash("no_such_package.module.Thing")
