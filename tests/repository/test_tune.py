"""Search a method's numbers: it measures what run.py returns, and run.py uses what it found."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

pytest.importorskip("optuna")

from speechforget.config.inputs import decisive
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_objective_is_the_mean_over_seeds(words: list[str], place: Path, configure: Callable) -> None:
    values = []
    for seeds in ([0], [1], [0, 1]):
        objective = tune["Objective"]([configure(*words, f"seed={seed}") for seed in seeds])
        objective.prepare()
        values.append(objective({"learning_rate": 0.003}))
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=1e-12)


@pytest.mark.slow
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
    "error",
    [
        Diverged("Losses are not finite."),
        pytest.param(UserError("No."), marks=pytest.mark.slow),
        pytest.param(FloatingPointError("nan"), marks=pytest.mark.slow),
        ValueError("singular"),
    ],
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


def test_without_an_oracle_there_is_nothing_to_search_for(words: list[str], place: Path) -> None:
    with pytest.raises(UserError, match="oracle"):
        tune["tune"]([*words, "oracle=none"], 2, [], place / "conf")
