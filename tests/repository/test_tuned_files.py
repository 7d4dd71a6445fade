"""Files of numbers that a search found: how a run reads them, and how a search writes them."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.tiny import RETRAINED

pytest.importorskip("optuna")

from speechforget.config.tuned import entry_of
from speechforget.errors import UserError
from speechforget.stages.unlearn import build_method

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import tuned_file  # noqa: E402

tune = runpy.run_path(str(ROOT / "scripts" / "tune.py"), run_name="tune")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of `tuned` in my_conf: scrub and munba were searched for class requests, munba in vain."""
    path = tmp_path / "my_conf" / "tuned" / "mine.yaml"
    found_for = {"dataset": "folder", "label": "word", "model": "tcresnet", "task": "class"}
    for method, better in (("scrub", True), ("munba", False)):
        entry = {"numbers": {"learning_rate": 0.5}, "beside": {"epochs": 77}}
        tuned_file.add(path, {**found_for, "method": method}, entry, better, False)
    monkeypatch.chdir(tmp_path)
    return path


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", overrides=list(words)), resolve=True)
    return config


def test_each_job_of_a_sweep_uses_the_numbers_of_its_own_method(
    mine: Path, small: list[str], command: Callable, tmp_path: Path
) -> None:
    """Jobs without numbers say so in one line."""
    shutil.move(tmp_path / "my_conf", tmp_path / "conf")
    words = ["--config-dir", str(tmp_path / "conf"), *small, f"output={tmp_path}", "tuned=mine", "plan=true"]
    swept = command("-m", *words, "method=scrub,munba,salun")
    assert swept.returncode == 0, swept.stderr
    assert swept.stderr.count("ran with other values: method.epochs=77, not 5") == 1, swept.stderr
    assert swept.stderr.count("nothing better for method=munba task=class: the method's own numbers are used.") == 1
    assert swept.stderr.count("holds no numbers for method=salun task=class: the method's own numbers are used.") == 1
    shown = OmegaConf.create(command("--cfg", "job", *words, "method=scrub").stdout)
    assert shown.method.learning_rate == 0.5 and "tuned" not in shown and "class" not in shown


def test_numbers_go_before_an_experiment_and_behind_the_command_line(mine: Path) -> None:
    shown = composed("tuned=mine", "method=scrub", "experiment=smoke")
    assert shown["method"]["learning_rate"] == 0.5 and shown["tuned_to"] == {"learning_rate": 0.5}
    assert shown["tuned_from"] == {"epochs": 77} and shown["tuned_for"]["method"] == "scrub"
    shown = composed("tuned=mine.yaml", "method=scrub", "method.learning_rate=0.25")
    assert shown["method"]["learning_rate"] == 0.25 and shown["tuned_to"] == {"learning_rate": 0.5}
    for words in (["method=munba"], ["method=salun"], ["method=scrub", "task=sample"]):
        assert composed("tuned=mine", *words)["method"] == composed(*words)["method"]


def test_a_file_that_hydra_finds_elsewhere_or_that_is_wrong_is_refused(mine: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "my_conf", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"not in hydra\.searchpath"):
        tune["check_tuned"](composed(f"hydra.searchpath=[file://{tmp_path / 'elsewhere'}]", "tuned=mine"))
    shutil.move(tmp_path / "elsewhere", tmp_path / "my_conf")
    mine.write_text(mine.read_text().replace("numbers:", "number:"))
    with pytest.raises(UserError, match=r"class\.scrub must hold `numbers"):
        composed("tuned=mine", "method=scrub")


def test_a_file_of_one_search_alone_still_serves(mine: Path) -> None:
    old = {"method": {"learning_rate": 0.5}, "tuned_to": {"learning_rate": 0.5}, "tuned_for": {"method": "scrub"}}
    mine.write_text("# @package _global_\n" + OmegaConf.to_yaml(old))
    assert composed("tuned=mine")["method"]["learning_rate"] == 0.5
    with pytest.raises(UserError, match="found for method=scrub"):
        tune["check_tuned"](composed("tuned=mine", "method=salun"))
    with pytest.raises(UserError, match="does not hold numbers by task and method"):
        tuned_file.read(mine)


def test_an_entry_moves_and_keeps_the_others_and_another_model_is_refused(mine: Path) -> None:
    file = mine
    munba = {**tuned_file.read(file)["tuned_for"], "task": "class", "method": "munba"}
    tuned_file.add(file, munba, {"numbers": {"learning_rate": 0.125}}, True, True)
    content = tuned_file.read(file)
    assert set(content["class"]) == {"scrub", "munba"} and "not_better" not in content
    tuned_file.add(file, munba, {"numbers": {"learning_rate": 0.001}}, False, True)
    content = tuned_file.read(file)
    assert set(content["class"]) == {"scrub"} and set(content["not_better"]["class"]) == {"munba"}
    for name, value in {"model": "m5", "label": "speaker", "dataset": "espeak"}.items():
        with pytest.raises(UserError, match=f"{name}=.+, not {value}: name another file"):
            tuned_file.add(file, {**munba, name: value}, {"numbers": {}}, True, True)
    assert tuned_file.read(file) == content


def test_searches_that_end_at_the_same_time_all_keep_their_entries(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tuned_file import add\n"
        "for n in range(5):\n"
        "    found_for = {'dataset': 'espeak', 'task': 'class', 'method': f'{sys.argv[2]}{n}'}\n"
        "    add(Path(sys.argv[1]), found_for, {'numbers': {'k': n}}, True, False)"
    )
    path = tmp_path / "tuned" / "mine.yaml"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}
    processes = [subprocess.Popen([sys.executable, "-c", code, path, name], env=environment) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert set(tuned_file.read(path)["class"]) == {f"{name}{n}" for name in "abc" for n in range(5)}


def test_shipped_numbers_serve_what_they_are_found_for() -> None:
    """And say by which command and how near they come. The method's other numbers are today's; if not, search again."""
    for path in (ROOT / "conf" / "tuned").glob("*.yaml"):
        content = tuned_file.read(path)
        if "source" in content:
            check_published(content)
            continue
        found_for = content["tuned_for"]
        chosen = [
            f"dataset={found_for['dataset']}",
            f"dataset.label={found_for['label']}",
            f"model={found_for['model']}",
        ]
        tune["check_tuned"](composed(*chosen, f"tuned={path.stem}"))
        assert path.stem == tune["name_of"](found_for) and path.read_text() == tuned_file.text_of(path.stem, content)
        for section, better in ((content, True), (content["not_better"], False)):
            for task, method in [(kind, name) for kind in ("class", "sample") for name in section.get(kind, {})]:
                check_shipped(content, task, method, section[task][method], better)


def default_method(name: str, task: str) -> dict[str, Any]:
    """The method's own numbers for a kind of request, without the time that Hydra takes to compose a config."""
    shared, own = OmegaConf.load(ROOT / "conf" / "config.yaml").method, ROOT / "conf" / "method" / f"{name}.yaml"
    config = OmegaConf.create({"method": OmegaConf.merge(shared, OmegaConf.load(own)), "task": {"kind": task}})
    method: Any = OmegaConf.to_container(config, resolve=True)
    return method["method"]


def check_published(content: dict[str, Any]) -> None:
    """Numbers of a publication are keys of the method, and differ from its own."""
    assert content["source"] and not content["tuned_for"]
    for task in ("class", "sample"):
        for method in content.get(task, {}):
            default, added = default_method(method, task), entry_of(content, task, method)
            assert added is not None and set(added["tuned_to"]) <= set(default), method
            assert any(default[name] != value for name, value in added["tuned_to"].items()), method
            build_method({**default, **added["method"]})


def check_shipped(content: dict[str, Any], task: str, method: str, entry: dict[str, Any], better: bool) -> None:
    default, numbers, objective = default_method(method, task), entry["numbers"], entry["objective"]
    added: Any = entry_of(content, task, method)
    here = f"{content['tuned_for']}: {task}.{method}"
    assert set(numbers) <= set(default), here
    assert added["tuned_to"] == added.get("method", {}) == (numbers if better else {}), here
    if better:
        assert objective["best"] < objective["default"], here
        assert {**added["tuned_from"], **numbers} == {**tune["numbers_of"](default), **numbers}, here
    else:
        assert objective["best"] == objective["default"], here
        assert numbers == {number: default[number] for number in numbers}, here
    build_method({**default, **added.get("method", {})})
    assert f"scripts/tune.py method={method} task={task}" in entry["command"] and "trials by TPE" in entry["search"]


def test_every_method_has_something_to_search() -> None:
    for name in sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")):
        method = default_method(name, "class")
        # The recipe of the original has the numbers of those that train again; erasers are closed forms.
        if name in ("none", "leace", "eta_removal", *RETRAINED):
            with pytest.raises(UserError, match="no learning rate"):
                tune["ranges_of"](method)
        else:
            assert all(0 < low < high for low, high in tune["ranges_of"](method).values()), name


@pytest.mark.parametrize(
    ("ends", "value", "words"),
    [
        ([1e-2, 1e-5], 1e-3, "low < high"),
        ([0, 1], 1e-3, "logarithmic"),
        ([1e-2, 1], 1e-3, "outside"),
        ("wide", 1e-3, "low"),
        ([1, 2], None, "no number"),
    ],
)
def test_a_range_that_is_none_is_a_sentence(ends: object, value: float | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tune["ranges_of"]({"name": "some", "strength": value, "tune": {"strength": ends}})
