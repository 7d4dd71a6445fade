"""What is in the key of each artefact of a whole run, and what a plan says of artefacts that nobody has made."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speechforget.cli.plan import plan
from speechforget.pipeline import Pipeline
from speechforget.stages.split import split_corpus
from speechforget.store import Artefact, OneByOne, Store, key_of

ROOT = Path(__file__).parents[2]


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
    planned = plan(configure(f"output={tmp_path / 'out'}", "evaluation.groups=[speaker]"))
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
