"""The identity of a result: equal if keys differ only in seeds, and different if they differ in anything else."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.made_corpora import NAMES, MakeCorpus, index

from speechforget.data.audio.cache import decode
from speechforget.data.corpora import espeak, espeak_clips
from speechforget.pipeline import Pipeline
from speechforget.stages.record import identity
from speechforget.store import Artefact, OneByOne, Store, key_of

SEEDS = ["seed=1", "task.seed=1", "dataset.split_seed=1"]


class Namer(OneByOne):
    """A store that builds only the split, and names everything else."""

    def __init__(self, root: Path) -> None:
        self.store, self.asked = Store(root), {}

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""
        if stage == "split":
            return self.store.produce(stage, name, inputs, build)
        key = key_of(stage, inputs)
        self.asked[stage] = inputs
        return Artefact(self.store.folder(stage, name, key), key, built=False)


@pytest.fixture(scope="module")
def made(configure, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Pipeline, dict[str, Any]]]:
    """made(overrides ...) -> a pipeline that ran with a `Namer`, and the inputs of its result."""
    root = tmp_path_factory.mktemp("told")

    def make(*overrides: str) -> tuple[Pipeline, dict[str, Any]]:
        chosen = overrides if any(word.startswith("task=") for word in overrides) else ["task=sample", *overrides]
        pipeline = Pipeline(configure(f"output={root}", *chosen), Namer(root))
        pipeline.result()
        return pipeline, pipeline.store.asked["result"]

    return make


@pytest.fixture(scope="module")
def told(made) -> Callable[..., tuple[str, dict[str, Any]]]:
    """told(overrides ...) -> the key of that run's result, and the identity that it would record."""

    @functools.cache
    def tell(*overrides: str) -> tuple[str, dict[str, Any]]:
        pipeline, result = made(*overrides)
        return key_of("result", result), identity(pipeline.config, pipeline.data, pipeline.made_from, result)

    return tell


def about(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that tells results apart: without seeds and the utterances that they draw."""
    return {name: value for name, value in identity.items() if name not in {"seeds", "utterances"}}


@pytest.mark.parametrize("kind", [[], ["task=class"], ["task.by=speaker"]], ids=["random", "class", "speaker"])
def test_seeds_alone_change_keys_and_no_identity(told, kind: list[str]) -> None:
    keys, identities = zip(*(told(*kind, *seeds) for seeds in ([], *([seed] for seed in SEEDS), SEEDS)), strict=True)
    assert len(set(keys)) >= 4  # two seeds may draw the same class
    assert all(about(identity) == about(identities[0]) for identity in identities)
    assert identities[-1]["seeds"] == {"seed": 1, "task.seed": 1, "dataset.split_seed": 1}


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=5",
        "train.optimizer.name=sgd",
        "model.channels=[8,16]",
        "trainer.precision=64-true",
        "dataset.holdout=0.3",
        "dataset.seconds=0.4",
        "dataset.windows=2",
        "dataset.corpus.test=0.3",
        "dataset.corpus.seed=7",
        "task.percent=10",
        "task.balanced=false",
        "method=finetune",
        "method.learning_rate=0.5",
        "method.trainable=head",
        "evaluation=paper",
        "oracle=none",
    ],
)
def test_whatever_else_changes_a_key_changes_an_identity(told, override: str) -> None:
    (key, identity), (other_key, other) = told(), told(override)
    assert key != other_key and about(identity) != about(other)


def test_original_and_oracle_know_no_method_and_no_request(told) -> None:
    plain, other = told()[1], told("method=finetune", "task.percent=10")[1]
    assert all(plain[name] == other[name] for name in ("original", "oracle"))
    assert plain["unlearned"]["digest"] != other["unlearned"]["digest"] and plain["request"] != other["request"]
    facts = plain["original"]["facts"]
    assert (
        facts["model.train.epochs"] == 4
        and facts["model.split.label"] == "word"
        and facts["model.model.channels"] == [8, 8]
    )
    groups = ("planted", "confused", "mislabelled", "backdoor", "dependent")  # part of what the recordings are
    drawn = tuple(f"{group}.seed" for group in groups)
    assert not [name for name in facts if name.endswith("seed") and not name.endswith(drawn)]


def test_recordings_tell_corpora_of_one_name_apart_wherever_they_lie(told, tones: Path, tmp_path: Path) -> None:
    copied, changed = (Path(shutil.copytree(tones, tmp_path / name)) for name in ("copied", "changed"))
    soundfile.write(next(changed.glob("word0/*.wav")), 0.1 * np.sin(np.arange(4000)), 8000)
    here, there, other = (told(f"dataset.root={root}")[1] for root in (tones, copied, changed))
    assert about(here) == about(there)
    assert here["original"]["digest"] != other["original"]["digest"]
    name = "model.split.corpus.recordings"
    assert here["original"]["facts"][name] != other["original"]["facts"][name]


def test_a_list_of_ids_is_its_content(made, told, tmp_path: Path) -> None:
    data = made()[0].data
    trained = data.table["id"].iloc[data.rows("train")[:4]].tolist()
    requests = {}
    for name, lines in {"a": trained[:3], "b": trained[2::-1], "c": trained[1:]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
        requests[name] = told("task.by=ids", f"task.ids={tmp_path / name}.txt")[1]["request"]
    assert requests["a"] == requests["b"] != requests["c"]


DRAWN = [name for name in NAMES if name not in {"voxceleb1", "fluent_speech_commands"}]  # the others draw nothing


@pytest.mark.usefixtures("few_published")
def test_no_seed_changes_the_steady_table_of_a_corpus(made_corpus: MakeCorpus) -> None:
    for name in DRAWN:
        first, second = (index(name, made_corpus(name), seed=seed) for seed in (0, 1))
        one, other = (corpus.table if corpus.steady is None else corpus.steady for corpus in (first, second))
        assert one.equals(other), name


@pytest.mark.usefixtures("few_published")
@pytest.mark.parametrize(
    "name", ["slurp", *(pytest.param(n, marks=pytest.mark.nightly) for n in NAMES if n != "slurp")]
)
def test_no_seed_changes_the_steady_fingerprint(name: str, made_corpus: MakeCorpus, tmp_path: Path) -> None:
    root, seeds = made_corpus(name), ({"seed": 0}, {"seed": 1}) if name in DRAWN else ({}, {})
    first, second = (decode(index(name, root, **seed), tmp_path / "cache", 8000) for seed in seeds)
    assert first.steady == second.steady


def test_no_seed_changes_what_is_steady_of_spoken_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: None)
    first, second = (espeak.index(None, "word", Path("cache"), seed=seed) for seed in (0, 1))
    assert not first.table.equals(second.table) and first.steady is not None and first.steady.equals(second.steady)
