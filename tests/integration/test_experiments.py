"""Compose and plan every experiment of conf/experiment with the jobs of its sweep, and run each in small."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from support import experiment_corpora as corpora

from speechforget.config.validate import check
from speechforget.page.published import published
from speechforget.stages.unlearn import build_method

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PAPER = [name for name in EXPERIMENTS if name.startswith("paper_")]
PAPER_METHODS = ["gradient_ascent", "random_label", "bad_teaching", "scrub", "salun"]
Recordings = Callable[[str], Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
BENCHMARK = ["finetune", "gradient_ascent", "negative_gradient", "cf_k", "unsir_samples", "bad_teaching"]
BENCHMARK += ["bad_teaching_light", "scrub"]
WAV2VEC2 = (
    "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, "
    "conv_dim: [8, 8, 8, 8, 8, 8, 8], num_conv_pos_embeddings: 4, num_conv_pos_embedding_groups: 2}"
)
WHISPER = "{d_model: 16, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 16}"
ONE_EPOCH = ["train.epochs=1", "train.warmup=0"]


def encoder(name: str, architecture: str) -> list[str]:
    return [f"model={name}", "model.pretrained=null", "model.projection=8", f"model.architecture={architecture}"]


@dataclass(frozen=True)
class Small:
    """Say how an experiment is run at about 2 % of its size or less.

    corpus: writes its recordings in the folders of the real archive. options: models and trainings of seconds.
    jobs: what remains of its sweep; the first value of each is planned. made: how many models and results that gives.
    """

    corpus: Callable[[Path], None]
    options: Sequence[str]
    jobs: Sequence[str] = ()
    made: dict[str, int] = field(default_factory=dict)


SMALL = {
    "sequential": Small(
        corpora.nothing,
        [
            *ONE_EPOCH,
            "model.channels=[8,8]",
            "dataset.corpus.words=[stop,go,left]",
            "dataset.corpus.voices=5",
            "dataset.corpus.renderings=4",
            "task.requests=[20,20,20]",
        ],
        ["method=scrub"],
        {"original": 3, "oracle": 9, "unlearned": 4, "result": 4, "sequence": 1},
    ),
    "speech_recognition": Small(
        corpora.nothing,
        [*ONE_EPOCH, "model.channels=8", "model.kernels=[3]", "dataset.corpus.voices=6", "dataset.corpus.sentences=8"],
        ["task.by=random", "method=scrub"],
        {"original": 1, "oracle": 3, "result": 1, "audit": 0},
    ),
    "attribute": Small(
        corpora.nothing,
        [
            *ONE_EPOCH,
            "model.channels=[8,8]",
            "dataset.corpus.words=[stop,go]",
            "dataset.corpus.voices=[en+f1,en-029+f4,en+linda,en-us+m7,en+m8,en-029+m2]",
            "dataset.corpus.renderings=9",
        ],
        ["method=none,leace"],
        {"original": 1, "oracle": 3, "unlearned": 2, "result": 2},
    ),
    "smoke": Small(corpora.nothing, ["train.epochs=1"], (), {"original": 1, "oracle": 1, "result": 1}),
    "arabic": Small(
        corpora.arabic_speech_commands,
        [*ONE_EPOCH, "model.channels=[8,8]", "dataset.seconds=0.5", "method.epochs=1", "task.seed=0"],
        ["dataset.label=word", "task=sample,class", "method=scrub", "seed=0"],
        {"original": 9, "oracle": 12, "result": 2, "audit": 1},
    ),
    "paper_keyword_spotting": Small(
        corpora.speech_commands,
        [*encoder("whisper_tiny", WHISPER), "model.context=1.0", *ONE_EPOCH, "method.epochs=1"],
        ["method=scrub", "task=sample", "task.percent=10", "seed=0"],
        {"original": 9, "oracle": 8, "result": 1, "audit": 1},
    ),
    "paper_speaker_identification": Small(
        corpora.voxceleb,
        [*encoder("hubert_base", WAV2VEC2), *ONE_EPOCH, "method.epochs=1"],
        ["method=salun,gradient_ascent", "task=class", "task.percent=10", "seed=0"],
        {"original": 1, "oracle": 4, "result": 2, "audit": 0},
    ),
    "unslu_bench": Small(
        corpora.fluent_speech_commands,
        [
            *encoder("wav2vec2_base", WAV2VEC2),
            *ONE_EPOCH,
            "dataset.seconds=0.5",
            "dataset.holdout=0.4",
            "task.fewest=20",
            "task.share=[9,20]",
        ],
        [f"method={','.join(BENCHMARK)}", "method.learning_rate=1e-4", "seed=0"],
        {"original": 1, "oracle": 3, "result": 8, "audit": 0},
    ),
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def grid_of(experiment: str) -> dict[str, list[str]]:
    found = OmegaConf.select(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml"), "hydra.sweeper.params") or {}
    return {name: str(values).split(",") for name, values in found.items()}


@functools.cache
def jobs_of(experiment: str) -> list[DictConfig]:
    """Compose as many jobs of the sweep as hold each of its models, methods, tasks and seeds."""
    grid = grid_of(experiment)
    count = max((len(values) for name, values in grid.items() if name != "task.percent"), default=1)
    return [
        composed(f"experiment={experiment}", *[f"{name}={values[job % len(values)]}" for name, values in grid.items()])
        for job in range(count)
    ]


def method_of(config: DictConfig) -> dict[str, Any]:
    options: Any = OmegaConf.to_container(config, resolve=True)
    return dict(options["method"])


def test_every_experiment_is_run_in_small() -> None:
    """A new file of conf/experiment needs an entry of SMALL."""
    assert set(SMALL) == set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_header_gives_the_command_the_hours_and_the_numbers_to_expect(experiment: str) -> None:
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text().partition("\ndefaults:")[0]
    assert f"# python run.py {'-m ' if grid_of(experiment) else ''}experiment={experiment}" in text
    if grid_of(experiment):
        assert "\n# Hours: " in text and "\n# Expected" in text and "tolerance" in text.lower()
    else:
        assert "seconds" in text and "no meaning" in text
    assert f"`{experiment}`" in (ROOT / "docs" / "experiments.md").read_text()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_kind_of_job_composes_to_a_run_that_is_checked(experiment: str) -> None:
    for config in jobs_of(experiment):
        check(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        assert build_method(method_of(config)).passes() or experiment == "attribute"  # whose erasers make no pass


@pytest.mark.parametrize("experiment", PAPER)
def test_the_papers_grid_is_whole_and_audited_and_its_numbers_stand_beside(experiment: str) -> None:
    grid = grid_of(experiment)
    sizes = {"model": 7, "method": 5, "task": 2, "task.percent": 10, "seed": 5}
    assert {name: len(values) for name, values in grid.items()} == sizes and grid["method"] == PAPER_METHODS
    assert grid["task.percent"] == [str(percent) for percent in range(1, 11)]
    for job, config in enumerate(jobs_of(experiment)):
        assert config.task.kind == grid["task"][job % 2] and config.task.seed == config.seed == job % 5
        assert config.task.percent == job + 1 and config.model.name == grid["model"][job] and config.model.pretrained
        assert (config.evaluation.pairs, config.evaluation.oracles) == (4, 4) and config.evaluation.attacks
        assert (config.method.learning_rate, config.method.learning_rate_steps, config.method.epochs) == (5e-5, None, 5)
    for method, task in itertools.product(PAPER_METHODS, grid["task"]):
        assert published(config.dataset.name, config.dataset.label, task, method)
    plain = composed(f"experiment={experiment}", "evaluation=paper").evaluation
    assert (plain.pairs, plain.oracles, plain.attacks) == (0, 1, [])


def test_the_arabic_grid_is_that_of_the_papers_methods_on_both_labels_and_requests() -> None:
    grid = grid_of("arabic")
    assert grid["method"] == PAPER_METHODS and grid["dataset.label"] == ["word", "speaker"]
    assert grid["task"] == ["sample", "class"] and grid["seed"] == ["0", "1", "2"]
    for job, config in enumerate(jobs_of("arabic")):
        assert config.task.seed == config.seed == job % 3
        assert (config.evaluation.pairs, config.evaluation.oracles) == (4, 4) and config.evaluation.attacks


def test_the_benchmarks_methods_have_its_numbers_and_all_get_all_rates() -> None:
    grid = grid_of("unslu_bench")
    assert grid["method"] == BENCHMARK
    assert [float(rate) for rate in grid["method.learning_rate"]] == [5e-7, 1e-6, 5e-6, 1e-5, 5e-5, 1e-4]
    for job, config in enumerate(jobs_of("unslu_bench")):
        numbers = method_of(config)
        assert numbers["name"] == BENCHMARK[job] and config.tuned_to and not set(config.tuned_to) - set(numbers)
        batches = {value for name, value in numbers.items() if name.endswith("batch_size")}
        epochs = {value for name, value in numbers.items() if name.endswith("epochs")}
        assert (batches, epochs) == ({8}, {1}), BENCHMARK[job]
        assert numbers["learning_rate"] == float(grid["method.learning_rate"][job % 6])
        assert (numbers["learning_rate_steps"], numbers["retain_share"]) == (None, 1), BENCHMARK[job]
        assert numbers["optimizer"] == {"name": "adamw", "weight_decay": 0.01}, BENCHMARK[job]
    assert any(name.endswith("gum.gum") for name in config.evaluation.more_metrics)
    assert (config.task.by, list(config.task.share), config.task.fewest) == ("speaker", [2.5, 5], 100)
    slurp = composed("experiment=unslu_bench", "dataset=slurp", "train.epochs=21", "train.warmup=2")
    check(OmegaConf.to_container(slurp, resolve=True))  # type: ignore[arg-type]
    assert (slurp.dataset.name, slurp.dataset.label, slurp.dataset.seconds) == ("slurp", "intent", 10.0)


def test_the_script_for_slurm_runs_any_experiment_and_asks_for_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def script(*words: str) -> subprocess.CompletedProcess[str]:
        words = ("bash", str(ROOT / "scripts" / "slurm_experiment.sh"), *words)
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    asked = script("unslu_bench", "/corpora/fluent", "seed=0", "plan=true").stdout.split()
    assert asked[:3] == ["run.py", "experiment=unslu_bench", "dataset.root=/corpora/fluent"]
    assert "launch=slurm" in asked and asked[-2:] == ["seed=0", "plan=true"]
    for words, missing in (((), "name the experiment first"), (("arabic",), "name the folder of the corpus second")):
        refused = script(*words)
        assert refused.returncode == 1 and missing in refused.stderr


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Make the small corpus of an experiment, once."""
    made: dict[str, Path] = {}

    def make(experiment: str) -> Path:
        if experiment not in made:
            made[experiment] = tmp_path_factory.mktemp(experiment)
            SMALL[experiment].corpus(made[experiment])
        return made[experiment]

    return make


def command_of(experiment: str, root: Path, output: Path) -> list[str]:
    place = [f"output={output}", "logger=none", "trainer.threads=1"]
    named = [] if SMALL[experiment].corpus is corpora.nothing else [f"dataset.root={root}"]
    return [f"experiment={experiment}", *named, *place, *SMALL[experiment].options]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_can_be_planned(experiment: str, recordings: Recordings, tmp_path: Path, command: Run) -> None:
    first = [job.partition(",")[0] for job in SMALL[experiment].jobs]
    run = command("-m", *command_of(experiment, recordings(experiment), tmp_path / "out"), *first, "plan=true")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "to build" in run.stdout + run.stderr
    assert not list((tmp_path / "out").glob("*/*/DONE"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs_in_small(experiment: str, recordings: Recordings, tmp_path: Path, command: Run) -> None:
    small, out = SMALL[experiment], tmp_path / "out"
    sweep = ["-m"] if small.jobs else []
    run = command(*sweep, *command_of(experiment, recordings(experiment), out), *small.jobs, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    assert {stage: len(list((out / stage).glob("*/DONE"))) for stage in small.made} == small.made
    for path in (out / "result").glob("*/result.json"):
        result = json.loads(path.read_text())
        assert {"original", "oracle", "unlearned"} <= set(result["comparison"])
        name = "word_error_rate_test" if experiment == "speech_recognition" else "accuracy_test"
        assert result["comparison"]["oracle"][name]["value"] is not None
        if experiment == "unslu_bench":
            cgum = result["comparison"]["unlearned"]["cgum"]
            assert cgum["value"] is not None or "less than their standard error" in cgum["reason"]
