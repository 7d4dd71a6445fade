"""Search a method's numbers: it measures what run.py returns, and run.py uses what it found."""

from __future__ import annotations

import json
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

pytest.importorskip("optuna")

from speechforget.config.inputs import decisive
from speechforget.config.tuned import entry_of
from speechforget.errors import Diverged, UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.unlearn import build_method
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import tuned_file  # noqa: E402

tune = runpy.run_path(str(ROOT / "scripts" / "tune.py"), run_name="tune")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def words(small: list[str], place: Path) -> list[str]:
    return [*small, "method=finetune", "method.epochs=1", f"output={place / 'out'}", f"cache={place / 'cache'}"]


@pytest.fixture(scope="module")
def found(words: list[str], place: Path) -> Path:
    return tune["tune"](words, 3, [], place / "conf")


def saved_entry(path: Path, method: str = "finetune") -> dict[str, Any]:
    """The one entry of a file that a search wrote, whether it beat the default or not."""
    content = tuned_file.read(path)
    return {**content.get("class", {}), **content.get("not_better", {}).get("class", {})}[method]


def trials_of(folder: Path) -> list[tuple[str, float]]:
    """(numbers tried, objective) of every finished trial, in order."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    (path,) = (folder / "tuning").glob("*.journal")
    study = optuna.load_study(study_name="tuning", storage=JournalStorage(JournalFileBackend(str(path))))
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return [(json.dumps(trial.user_attrs["tried"]), trial.value) for trial in done]


def test_the_yaml_gives_the_best_trial_and_run_py_returns_its_objective(
    found: Path, words: list[str], place: Path, configure: Callable
) -> None:
    assert found == place / "conf" / "tuned" / "my_folder_word.yaml"
    trials = trials_of(place / "out")
    assert len({numbers for numbers, _ in trials}) == 3
    best = min(value for _, value in trials)
    entry = saved_entry(found)
    assert json.dumps(entry["numbers"]) in {text for text, value in trials if value == best}
    assert entry["objective"] == {"best": round(best, 4), "default": round(trials[0][1], 4)}
    assert entry["command"].endswith("--trials 3") and "dataset.root=FOLDER" in entry["command"]
    assert str(place) not in found.read_text()
    for text, value in trials:  # to the last digit, by the whole pipeline
        config = configure(
            *words, f"method.learning_rate={json.loads(text)['learning_rate']}", f"output={place / 'whole'}"
        )
        result = Pipeline(config, Store(place / "whole")).result()
        record = json.loads((result.folder / "result.json").read_text())
        assert record["objective"] == value and record["task"] == {
            "kind": "class",
            "number": 1,
            "seed": 0,
        }  # the keys that count


def test_the_first_trial_is_the_default(found: Path, place: Path) -> None:
    default = OmegaConf.load(ROOT / "conf" / "method" / "finetune.yaml").learning_rate
    assert trials_of(place / "out")[0][0] == json.dumps({"learning_rate": default})


def test_trials_leave_no_models_in_the_output(found: Path, place: Path) -> None:
    assert not (place / "out" / "unlearned").exists() and not (place / "out" / "result").exists()
    assert len(list((place / "out" / "scores").glob("*/DONE"))) == 2  # of original and oracle
    assert not [path for path in (place / "out" / "tuning").iterdir() if path.is_dir()]


def test_a_search_that_was_cut_off_goes_on_as_it_would_have(
    found: Path, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [word if not word.startswith("output=") else f"output={place / 'again'}" for word in words]
    measured = tune["Objective"]._measured
    count = [0]

    def killed(*arguments: Any) -> float:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(tune["Objective"], "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        tune["tune"](again, 3, [], place / "other")
    assert trials_of(place / "again") == trials_of(place / "out")[:2]
    tune["tune"](again, 3, [], place / "other")
    assert trials_of(place / "again") == trials_of(place / "out") and count[0] == 4
    text = found.read_text()
    (kept,) = (place / "other" / "tuned").iterdir()
    assert kept.read_text() == text
    other = {**tuned_file.read(kept)["tuned_for"], "task": "sample", "method": "other"}
    tuned_file.add(kept, other, {"numbers": {}}, True, False)
    before = kept.read_text()
    with pytest.raises(UserError, match="exists: add --overwrite"):
        tune["tune"](again, 2, [], place / "other")
    assert kept.read_text() == before
    assert tune["tune"](again, 2, [], place / "other", overwrite=True) == kept and count[0] == 4  # all there
    assert kept.read_text() == before


def test_the_objective_is_the_mean_over_seeds(words: list[str], place: Path, configure: Callable) -> None:
    values = []
    for seeds in ([0], [1], [0, 1]):
        objective = tune["Objective"]([configure(*words, f"seed={seed}") for seed in seeds])
        objective.prepare()
        values.append(objective({"learning_rate": 0.003}))
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=1e-12)


def test_a_search_for_what_oracles_do_not_betray_is_what_run_py_returns(
    words: list[str], place: Path, configure: Callable
) -> None:
    told = [*words, "evaluation=full", "evaluation.attacks=[]", "evaluation.objective=told_from_oracles"]
    objective = tune["Objective"]([configure(*told)])
    objective.prepare()
    value = objective({"learning_rate": 0.003})
    config = configure(*told, "method.learning_rate=0.003", f"output={place / 'told'}")
    result = Pipeline(config, Store(place / "told")).result()
    record = json.loads((result.folder / "result.json").read_text())
    assert record["objective"] == value
    told_part = 2 * max(0, record["comparison"]["unlearned"]["told_from_oracles"]["value"] - 0.5)
    gaps = [abs(record["comparison"]["unlearned"][f"accuracy_{name}"]["gap"]) for name in ("forget", "validation")]
    assert value == pytest.approx((told_part + sum(gaps)) / 3) and told_part > 0


def test_a_wrong_model_and_a_wrong_name_are_sentences(found: Path, words: list[str], command: Callable) -> None:
    conf, tuned = ["--config-dir", str(found.parents[1])], f"tuned={found.stem}"
    refused = command(*conf, *words, "model=m5", "plan=true", tuned)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "model=tcresnet" in refused.stderr and "model=m5" in refused.stderr
    typo = command(*conf, *words, tuned[:-1])
    assert typo.returncode == 1 and f"did you mean '{found.stem}'" in typo.stderr and "Traceback" not in typo.stderr


def test_each_mismatch_is_named(configure: Callable) -> None:
    config = configure()
    right = tune["asked_for"](config)
    tune["check_tuned"]({**config, "tuned_for": right})
    for group in ("task", "dataset", "label", "model", "method"):
        with pytest.raises(UserError, match=f"{group}=other"):
            tune["check_tuned"]({**config, "tuned_for": {**right, group: "other"}})


def test_numbers_found_on_one_folder_are_refused_for_another(
    found: Path, words: list[str], tones: Path, place: Path, configure: Callable
) -> None:
    bring = {"tuned_for": tuned_file.read(found)["tuned_for"], "tuned_to": {}}
    other = shutil.copytree(tones, place / "other_tones")
    next(other.glob("word0/*.wav")).unlink()
    store = Store(place / "out")
    Pipeline({**configure(*words), **bring}, store).check_applicable()
    elsewhere = {**configure(*words, f"dataset.root={other}"), **bring}
    with pytest.raises(UserError, match=r"on other recordings .+ ~tuned_for\.corpus"):
        Pipeline(elsewhere, store).check_applicable()
    del bring["tuned_for"]["corpus"]
    Pipeline({**elsewhere, **bring}, store).check_applicable()


def test_numbers_found_beside_other_ones_are_used_with_a_warning(
    configure: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("method=scrub")
    found = {
        "tuned_for": tune["asked_for"](config),
        "tuned_from": tune["numbers_of"](config["method"]),
        "tuned_to": {"learning_rate": 0.5},
    }
    tuned = {**config["method"], "learning_rate": 0.5}
    tune["check_tuned"]({**config, **found, "method": tuned})
    assert not caplog.text
    tune["check_tuned"]({**config, **found})
    assert (
        f"replaced: method.learning_rate={config['method']['learning_rate']}, not 0.5" in caplog.text
        and "with other values" not in caplog.text
    )
    tune["check_tuned"]({**config, **found, "method": {**tuned, "epochs": 77}})
    assert f"method.epochs={config['method']['epochs']}, not 77" in caplog.text


@pytest.mark.parametrize(
    "error", [Diverged("Losses are not finite."), UserError("No."), FloatingPointError("nan"), ValueError("singular")]
)
def test_a_trial_that_breaks_down_is_a_failed_one_and_the_search_goes_on(
    error: Exception,
    words: list[str],
    place: Path,
    found: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = [word if not word.startswith("output=") else f"output={tmp_path}" for word in words]
    values = iter([error if isinstance(error, Diverged) else 0.5, error, 0.25, error])

    def measured(*_: Any) -> float:
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(tune["Objective"], "_measured", measured)
    path = tune["tune"](again, 4, [], tmp_path / "conf")
    failures = 3 if isinstance(error, Diverged) else 2
    entry = saved_entry(path)
    assert entry["search"] == f"4 trials by TPE, seed 0; {failures} of them failed"
    assert entry["objective"] == {"best": 0.25, "default": "failed" if isinstance(error, Diverged) else 0.5}
    assert capsys.readouterr().out.count("objective failed") == failures
    assert [value for _, value in trials_of(tmp_path)].count(float("inf")) == failures
    assert tune["tune"](again, 4, [], tmp_path / "conf", overwrite=True) == path  # nothing is measured again


def test_a_mistake_ends_a_search_at_once(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> float:
        raise UserError("There is no validation.")

    monkeypatch.setattr(tune["Objective"], "_measured", mistaken)
    with pytest.raises(UserError, match="no validation"):
        tune["tune"]([*words, "method.epochs=2"], 3, [], tmp_path / "conf")
    assert not (tmp_path / "conf").exists()


def test_a_number_that_the_method_refuses_ends_a_search_before_anything_is_trained(
    words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="epochs"):
        tune["tune"]([*words, f"output={tmp_path / 'out'}", "method.epochs=many"], 3, [], tmp_path / "conf")
    assert not (tmp_path / "out").exists()


def test_a_plan_of_a_search_makes_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"output={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}", "plan=true"]
    assert tune["tune"]([*words, *places], 3, [0, 1], tmp_path / "conf") is None
    out = capsys.readouterr().out
    assert "Plan of 2 runs" in out and "3 trials" in out and "my_folder_word.yaml" in out
    assert not list(tmp_path.iterdir())


def test_a_name_that_comes_with_speechforget_is_refused_elsewhere_and_safe_at_home(
    configure: Callable, tmp_path: Path
) -> None:
    found_for = {**tune["asked_for"](configure("method=scrub")), "dataset": "espeak"}
    assert tune["path_of"](tmp_path, None, found_for).name == "my_espeak_word.yaml"
    with pytest.raises(UserError, match="comes with speechforget"):
        tune["path_of"](tmp_path, "espeak_word", found_for)
    for method in ("scrub", "munba"):  # listed with numbers, and as not better
        with pytest.raises(UserError, match="exists"):
            path = tune["path_of"](ROOT / "conf", None, found_for)
            tuned_file.check_room(path, {**found_for, "method": method}, False)


def test_what_says_how_to_search_makes_no_other_method(configure: Callable) -> None:
    plain, told = configure("method=finetune"), configure("method=finetune", "+method.tune.learning_rate=[1e-5,1e-1]")
    assert told["method"]["tune"] == {"learning_rate": [1e-5, 1e-1]}
    assert decisive("method", told["method"]) == decisive("method", plain["method"])
    assert type(build_method(told["method"])) is type(build_method(plain["method"]))


def test_every_method_has_something_to_search() -> None:
    for name in sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")):
        method = default_method(name, "class")
        if name == "none":
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


def test_without_an_oracle_there_is_nothing_to_search_for(words: list[str], place: Path) -> None:
    with pytest.raises(UserError, match="oracle"):
        tune["tune"]([*words, "oracle=none"], 2, [], place / "conf")


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
