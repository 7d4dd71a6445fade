"""From recordings to a comparison: shared, resumable, deterministic, and nothing computed twice."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import warm

from speechforget.cli.plan import plan
from speechforget.errors import NotApplicable, UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.sources import make_sources
from speechforget.stages.split import split_corpus
from speechforget.store import Artefact, OneByOne, Store, key_of

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


@pytest.fixture(scope="module")
def keys(configure, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """keys(overrides ...): the keys of a run by stage. No artefact is built; the corpus is decoded once for all."""
    output, scratch = (tmp_path_factory.mktemp(name) for name in ("output", "scratch"))
    split_corpus(configure(f"output={output}"), Store(scratch))

    @functools.cache
    def found(*overrides: str) -> dict[str, str]:
        planned = plan(configure(f"output={output}", *overrides), scratch=scratch)
        assert all(one.key for one in planned)
        return {
            one.stage if one.stage != "scores" else f"scores {index}": str(one.key) for index, one in enumerate(planned)
        }

    return found


OUT = [
    "trainer.threads=2",
    "trainer.devices=2",
    "trainer.nodes=2",
    "logger=csv",
    "logger=wandb",
    "logger=wandb logger.names=open logger.audio=true logger.artifacts=files",
    "launch=joblib",
    "lock=lease",
    "plan=true",
]


def test_how_a_run_is_made_is_in_no_key(keys) -> None:
    for override in OUT:
        assert keys(*override.split()) == keys(), override


MODELS = ("original", "oracle", "unlearned")
CHANGES = {
    "seed=1": set(MODELS),
    "train.learning_rate=0.1": set(MODELS),
    "train.epochs=5": set(MODELS),
    "train.batch_size=8": set(MODELS),
    "train.augment.shift=0.2": set(MODELS),
    "model.bands=32": set(MODELS),
    "model=bcresnet": set(MODELS),
    "dataset.seconds=0.4": set(MODELS),
    "dataset.split_seed=1": set(MODELS),
    "dataset.holdout=0.3": set(MODELS),
    "dataset.validation=0.2": set(MODELS),
    "dataset.label=speaker": set(MODELS),
    "trainer.precision=bf16-mixed": set(MODELS),
    "task.seed=2": {"oracle", "unlearned"},
    "task=sample": {"oracle", "unlearned"},
    "task.number=2": {"oracle", "unlearned"},
    "method.learning_rate=0.1": {"unlearned"},
    "method=finetune": {"unlearned"},
    "evaluation=paper": set(),
}


def test_what_changes_a_result_changes_the_keys_from_there_on(keys) -> None:
    for override, stages in CHANGES.items():
        before, after = keys(), keys(override)
        assert {stage for stage in MODELS if before[stage] != after[stage]} == stages, override
        assert before["result"] != after["result"], override


def numbers(options: dict, prefix: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every number in a config."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from numbers(value, (*prefix, name))
        elif isinstance(value, (int, float)):
            yield (*prefix, name)


class Keys(OneByOne):
    """Stand in for a store: build nothing, and note the keys that are asked for."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def produce(self, stage: str, name: str, inputs: dict, build: object) -> Artefact:
        key = key_of(stage, inputs)
        self.found.add(key)
        return Artefact(Path(stage) / f"{name}-{key[:12]}", key, built=False)


NUMBERED = [("method", "scrub"), ("model", "tcresnet"), ("train", "default")]
NUMBERED += [
    pytest.param(group, path.stem, marks=pytest.mark.nightly)  # unit/test_key_inputs.py always has all
    for group in ("method", "model", "train")
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
    if (group, path.stem) not in NUMBERED
]


@pytest.fixture(scope="module")
def shared(configure, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Corpus and request of a run, made once for all configs."""
    place = tmp_path_factory.mktemp("shared")
    made = Pipeline(configure(f"output={place}"), Store(place))
    return {"data": made.data, "request": made.request, "untried": None, "forgotten_ids": made.forgotten_ids}


@pytest.mark.parametrize(("group", "name"), NUMBERED)
def test_every_number_of_a_yaml_is_in_a_key(
    group: str, name: str, shared: dict[str, object], configure, tmp_path: Path
) -> None:
    """A new yaml cannot have a number that no key holds, on a real corpus and with nothing replaced but its builds."""

    def keys_of(config: dict) -> set[str]:
        store = Keys()
        pipeline = Pipeline(config, store)
        vars(pipeline).update(shared)  # they are cached properties
        pipeline.check_applicable = lambda: None  # type: ignore[method-assign]
        pipeline.result()
        return store.found

    config = configure(f"output={tmp_path}", f"{group}={name}")
    if config["model"].get("pretrained"):  # only the hub knows the key of weights that are not here
        config["model"]["pretrained"] = None
    before = keys_of(config)
    # `requests` may give numbers for a kind of request; they are already in their places.
    own = {key: value for key, value in config[group].items() if key != "requests"}
    for path_of in numbers(own):
        part = functools.reduce(dict.__getitem__, path_of[:-1], config[group])
        value = part[path_of[-1]]
        part[path_of[-1]] = not value if isinstance(value, bool) else value + 1
        assert keys_of(config) != before, path_of
        part[path_of[-1]] = value


def test_a_plan_of_a_corpus_that_is_not_decoded_has_the_same_artefacts(keys, configure, tmp_path: Path) -> None:
    planned = plan(configure(f"output={tmp_path / 'out'}"))
    assert [(one.key, one.state) for one in planned] == [(None, "missing")] * len(keys())
    assert [one.stage for one in planned] == [stage.split()[0] for stage in keys()]
    assert len({one.identity for one in planned}) == len(planned) and not (tmp_path / "out").exists()


def test_a_plan_of_a_decoded_corpus_divides_it_elsewhere(configure, tmp_path: Path) -> None:
    config = configure(f"output={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}")
    split_corpus(config, Store(tmp_path / "elsewhere"))
    planned = plan(config)
    assert [one.state for one in planned] == ["missing"] * len(planned) and all(one.key for one in planned)
    assert not (tmp_path / "out").exists()
    made = split_corpus(config, Store(tmp_path / "out"))
    assert planned[0].stage == "split" and planned[0].key == made.key
    again = plan(config)
    assert [one.key for one in again] == [one.key for one in planned] and again[0].exists


@pytest.mark.slow
def test_a_plan_is_what_then_happens(command, small, tmp_path: Path) -> None:
    sweep = [
        "-m",
        *small,
        f"output={tmp_path}",
        "task=class,sample",
        "method=none,finetune",
        "seed=0",
        "train.epochs=1",
        "launch=joblib",
    ]
    unknown = command(*sweep, "plan=true")
    assert unknown.returncode == 0, unknown.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    first = command(*[word for word in sweep if not word.startswith("method=")], "method=none", "only=original")
    assert (
        first.returncode == 0 and [path.name for path in tmp_path.glob("*/*/DONE")].count("DONE") == 2
    )  # the split and the original
    planned = command(*sweep, "plan=true")
    for text, exist in ((unknown.stdout, 0), (planned.stdout, 1)):
        for stage, count in (("original", 1), ("oracle", 2), ("unlearned", 4), ("scores", 7), ("result", 4)):
            there = exist if stage == "original" else 0
            assert f"  {stage:10} {there:4} exist, {count - there:4} to build" in text
    assert command(*sweep).returncode == 0
    for path in tmp_path.glob("[ousr]*/*/DONE"):  # every artefact was announced by name and key
        if path.parent.parent.name != "split":
            assert path.parent.name in planned.stdout
    after = command(*sweep, "plan=true")
    assert "Everything exists." in after.stdout and "missing" not in after.stdout


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
