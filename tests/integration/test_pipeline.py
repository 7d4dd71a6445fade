"""From recordings to a comparison: shared, resumable, deterministic, and nothing computed twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import warm

from speechforget.errors import NotApplicable, UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.sources import make_sources
from speechforget.store import Store

ROOT = Path(__file__).parents[2]


def result_of(folder: Path, method: str = "scrub") -> dict:
    (found,) = folder.glob(f"result/{method}-*/result.json")
    return json.loads(found.read_text())


def figures(result: dict) -> dict:
    """Return what two runs of the same command must agree on: every metric but seconds."""
    return {
        model: {metric: entry for metric, entry in entries.items() if metric not in {"seconds"}}
        for model, entries in result["comparison"].items()
    }


@pytest.fixture(scope="module")
def quiet(command, small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("quiet")
    run = command(*small, f"output={folder}")
    assert run.returncode == 0, run.stderr
    for words in ("original", "oracle", "unlearned", "forget", "retain", "AUC", "seconds", "non-members"):
        assert words in run.stdout
    return folder


def test_a_result_is_all_there(quiet: Path) -> None:
    (folder,) = quiet.glob("result/*/")
    expected = {
        "result.json",
        "result.csv",
        "config.yaml",
        "comparison.png",
        "forget.txt",
        "retain.txt",
        "nonmembers.txt",
        "DONE",
    }
    assert expected <= {path.name for path in folder.iterdir()}
    result = result_of(quiet)
    forget, retain = ((folder / f"{name}.txt").read_text().splitlines() for name in ("forget", "retain"))
    assert len(forget) == result["request"]["forget"] and len(retain) == result["request"]["retain"]
    assert not set(forget) & set(retain)
    assert {line.split("/")[0] for line in forget} == set(result["request"]["forgotten"])
    table = pd.read_csv(folder / "result.csv")
    assert set(table["model"]) == {"original", "oracle", "unlearned"}
    assert 0 <= result["objective"] <= 1
    assert result["comparison"]["oracle"]["accuracy_forget"]["value"] == 0
    assert all(entry["gap"] in (0, None) for entry in result["comparison"]["oracle"].values())


def test_a_cached_run_imports_neither_torch_nor_lightning(quiet: Path, command, small) -> None:
    run = command(*small, f"output={quiet}", env={"PYTHONPATH": str(ROOT / "tests" / "support" / "no_torch")})
    assert run.returncode == 0, run.stderr
    assert "Result:" in run.stdout


def test_a_second_method_trains_nothing(quiet: Path, command, small) -> None:
    run = command(*small, f"output={quiet}", "method=finetune")
    assert run.returncode == 0, run.stderr
    assert [
        len(list(quiet.glob(f"{stage}/*/DONE"))) for stage in ("split", "original", "oracle", "unlearned", "result")
    ] == [1, 1, 1, 2, 2]


def kill_at_random(folder: Path, small: list[str], moments: list[float]) -> None:
    line = [sys.executable, str(ROOT / "run.py"), *small, f"output={folder}"]
    for moment in moments:
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killing_and_repeating_ends_in_the_same_numbers(quiet: Path, command, small, tmp_path: Path) -> None:
    generator = random.Random(0)
    kill_at_random(tmp_path, small, [generator.uniform(2, 7) for _ in range(2)])
    run = command(*small, f"output={tmp_path}")
    assert run.returncode == 0, run.stderr
    assert figures(result_of(tmp_path)) == figures(result_of(quiet))
    for stage in ("original", "oracle", "unlearned"):
        (mine,), (theirs,) = (
            list(folder.glob(f"{stage}/{'scrub' if stage == 'unlearned' else ''}*/weights.safetensors"))
            for folder in (tmp_path, quiet)
        )
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_two_runs_at_once_train_the_original_once(quiet: Path, small, tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "run.py"), *small, f"output={tmp_path}", "logger=csv"]
    processes = [
        subprocess.Popen(
            line,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert figures(result_of(tmp_path)) == figures(result_of(quiet))
    (curves,) = tmp_path.glob("original/*/csv/metrics.csv")
    epochs = pd.read_csv(curves)["train/loss"].dropna()
    assert len(epochs) == 4


@pytest.mark.slow
def test_a_sweep_shares_lists_and_survives(command, small, tmp_path: Path) -> None:
    """Two toy methods: one that is only defined for classes, and one that fails."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "toy.py").write_text(
        "from speechforget.methods.base.method import Method\n\n\n"
        "class Shrink(Method):\n"
        "    def prepare(self, student, context):\n"
        "        student.head.weight.data.mul_(0.5)\n\n\n"
        "class Broken(Method):\n"
        "    def prepare(self, student, context):\n"
        "        raise ZeroDivisionError('broken on purpose')\n"
    )
    for name, kinds in (("shrink", "[class]"), ("broken", "[sample, class]")):
        target = f"toy.{name.capitalize()}"
        text = f"name: {name}\nrequests: {kinds}\nreason: it halves what it knows of a class\n_target_: {target}\n"
        (tmp_path / "conf" / "method" / f"{name}.yaml").write_text(text)
    outputs = tmp_path / "outputs"
    own = {"cwd": tmp_path}  # where a yaml finds the module beside it
    toys = [f"output={outputs}", "--config-dir", str(tmp_path / "conf")]
    run = command("-m", *small, "task=sample,class", "method=shrink,broken,none", *toys, **own)
    assert run.returncode == 1
    lines = run.stdout.splitlines()[-20:]
    outcomes = [line.split("task=")[0].split()[0] for line in lines if line.startswith("  ") and "task=" in line]
    assert sorted(outcomes) == ["done"] * 3 + ["failed"] * 2 + ["not"]
    assert "2 of 6 jobs failed" in run.stderr and "broken on purpose" in run.stderr
    assert len(list(outputs.glob("original/*/DONE"))) == 1 and len(list(outputs.glob("oracle/*/DONE"))) == 2
    alone = command(*small, "task=sample", "method=shrink", *toys, **own)
    assert (
        alone.returncode == 1 and "not defined for sample requests" in alone.stderr and "Traceback" not in alone.stderr
    )
    assert "it halves what it knows of a class" in alone.stderr and "it halves what it knows of a class" in run.stderr
    report = warm.run(["-m", "speechforget.report", str(outputs)], ROOT, os.environ, timeout=300)
    assert report.returncode == 0 and "shrink" in report.stdout and "oracle" in report.stdout.lower()


@pytest.mark.slow
def test_the_joblib_launcher_shares_too(command, small, tmp_path: Path) -> None:
    run = command("-m", *small, f"output={tmp_path}", "launch=joblib", "method=none,finetune", "task=class")
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("original/*/DONE"))) == 1 and len(list(tmp_path.glob("result/*/DONE"))) == 2


def test_the_three_seeds_are_independent(configure, tmp_path: Path) -> None:
    from speechforget.data.requests.select import select

    def drawn(*overrides: str) -> tuple[frozenset[str], frozenset[str]]:
        pipeline = Pipeline(
            configure(f"output={tmp_path}", "task=sample", "task.percent=10", *overrides), Store(tmp_path)
        )
        data = pipeline.data
        ids = data.table["id"].to_numpy()
        return frozenset(ids[data.rows("holdout")]), frozenset(ids[select(data.table, pipeline.task).forget])

    holdout, forget = drawn()
    assert drawn("seed=7") == (holdout, forget)
    assert drawn("task.seed=7")[0] == holdout and drawn("task.seed=7")[1] != forget
    assert drawn("dataset.split_seed=7")[0] != holdout


def test_a_class_request_leaves_the_class_to_nobody(configure, tmp_path: Path) -> None:
    pipeline = Pipeline(configure(f"output={tmp_path}", "task.classes=[word1]"), Store(tmp_path))
    data, request = pipeline.data, pipeline.request
    sources = make_sources(pipeline.config, data, request)
    number = data.classes.index("word1")
    labels = {name: set(data.numbers[rows].tolist()) for name, rows in sources.rows.items()}
    assert labels["forget"] == labels["validation_forgotten"] == labels["validation_request"] == {number}
    assert number not in labels["retain"] | labels["validation"]
    assert np.array_equal(np.sort(np.concatenate([sources.rows["forget"], sources.rows["retain"]])), data.rows("train"))
    held = {name for name in ("holdout", "test") for row in data.rows(name) if row in set(sources.rows["train"])}
    assert not held


def test_mistakes_in_a_request_say_what_exists(configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="word1"):
        Pipeline(configure(f"output={tmp_path}", "task.classes=[word9]"), Store(tmp_path)).run()
    config = configure(f"output={tmp_path}")
    config["method"]["requests"] = ["sample"]
    with pytest.raises(NotApplicable, match="class requests"):
        Pipeline(config, Store(tmp_path)).run()


def test_wrong_numbers_stop_before_anything_is_trained(configure, tmp_path: Path) -> None:
    for override, words in {
        "method.learning_rate=fast": "method.learning_rate must be",
        "method.epochs=1.5": "method.epochs must be",
        "model.bands=many": "model.bands must be",
        "+model.depth=3": "depth",
        "method.optimizer.name=adamm": "adamw",
        "+method.optimizer.momentm=0.9": "momentm",
        "train.optimizer.name=sdg": "sgd",
        "+train.augment.shfit=0.1": "shfit",
        "train.augment.shift=7": "train.augment.shift",
    }.items():
        with pytest.raises(UserError, match=words):
            Pipeline(configure(f"output={tmp_path}", override), Store(tmp_path)).run()
        assert not list(tmp_path.glob("original/*/weights.safetensors")), override
