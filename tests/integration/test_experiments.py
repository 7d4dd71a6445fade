"""Compose every experiment of conf/experiment with the jobs of its sweep, and run the paper's in small."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from speechforget.config.validate import check
from speechforget.stages.unlearn import build_method

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PAPER = [name for name in EXPERIMENTS if name.startswith("paper_")]
TINY = {
    "whisper_tiny": "{d_model: 16, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 16}",
    "hubert_base": "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, "
    "conv_dim: [8, 8, 8, 8, 8, 8, 8], num_conv_pos_embeddings: 4, num_conv_pos_embedding_groups: 2}",
}


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    check(OmegaConf.to_container(composed(f"experiment={experiment}"), resolve=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("experiment", PAPER)
def test_the_papers_grid_is_whole_and_each_kind_of_job_composes(experiment: str) -> None:
    params = composed(f"experiment={experiment}", hydra=True).hydra.sweeper.params
    grid = {name: str(values).split(",") for name, values in params.items()}
    assert {name: len(values) for name, values in grid.items()} == {
        "model": 7,
        "method": 5,
        "task": 2,
        "task.percent": 10,
        "seed": 5,
    }
    kinds = itertools.product(grid["method"], grid["task"])
    for (method, task), model in zip(kinds, itertools.cycle(grid["model"]), strict=False):  # ten jobs meet every model
        words = [f"model={model}", f"method={method}", f"task={task}", "task.percent=3", "seed=4"]
        config = composed(f"experiment={experiment}", *words)
        assert config.model.pretrained and config.model.name == model
        assert (
            config.task.kind == task
            and config.task.seed == 4
            and config.task.percent == 3
            and config.evaluation.name == "paper"
        )
        assert (config.method.learning_rate, config.method.learning_rate_steps, config.method.epochs) == (5e-5, None, 5)
        built = build_method(OmegaConf.to_container(config.method, resolve=True))  # type: ignore[arg-type]
        assert built.passes()


@pytest.mark.parametrize("experiment", PAPER)
def test_a_script_for_slurm_names_the_experiment(experiment: str) -> None:
    assert f'slurm_paper.sh" {experiment} ' in (ROOT / "scripts" / f"slurm_{experiment}.sh").read_text()


def speak(path: Path, generator: np.random.Generator, pitch: float, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16000 * seconds)) / 16000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch * time) + generator.normal(0, 0.02, len(time)), 16000)


def speech_commands(root: Path) -> None:
    """Speech Commands v0.01 at a five-hundredth: both archives, eleven words of nine speakers."""
    generator = np.random.default_rng(0)
    words = [*["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "bed"]]
    train, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for (number, word), speaker in itertools.product(enumerate(words), range(9)):
        name = f"{word}/{speaker:08x}_nohash_0.wav"
        speak(train / name, generator, 200 + 100 * number)
        if speaker < 2:
            place = (
                f"_unknown_/{word}_{speaker + 50:08x}_nohash_0.wav"
                if word == "bed"
                else f"{word}/{speaker + 50:08x}_nohash_0.wav"
            )
            speak(test / place, generator, 200 + 100 * number)
    speak(train / "_background_noise_" / "white_noise.wav", generator, 0, 60)
    for number in range(2):
        speak(test / "_silence_" / f"{number}.wav", generator, 0)
    for list_name, speaker in (("validation_list.txt", 7), ("testing_list.txt", 8)):
        (train / list_name).write_text("".join(f"{word}/{speaker:08x}_nohash_0.wav\n" for word in words))


def voxceleb(root: Path) -> None:
    """VoxCeleb1 identification at a thousandth: ten speakers, six videos of two files."""
    generator = np.random.default_rng(0)
    lines = []
    for speaker, video, file in itertools.product(range(10), range(6), range(2)):
        path = f"id1{speaker:04}/video{video:06}/{file + 1:05}.wav"
        speak(root / "wav" / path, generator, 150 + 80 * speaker, 1.5)
        lines.append(f"{ {4: 2, 5: 3}.get(video, 1) } {path}")
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "corpus", "model", "jobs"),
    [
        (
            "paper_keyword_spotting",
            speech_commands,
            "whisper_tiny",
            ["method=scrub,random_label", "task=sample,class", "task.percent=10"],
        ),
        (
            "paper_speaker_identification",
            voxceleb,
            "hubert_base",
            ["method=gradient_ascent,bad_teaching,salun", "task=class", "task.percent=10"],
        ),
    ],
    ids=PAPER,
)
def test_the_papers_experiments_run_in_small(
    experiment: str, corpus, model: str, jobs: list[str], tmp_path: Path, command
) -> None:
    corpus(tmp_path / "corpus")
    small = [
        f"model={model}",
        "model.pretrained=null",
        "model.projection=8",
        f"model.architecture={TINY[model]}",
        "train.epochs=1",
        "method.epochs=1",
    ]
    short = ["model.context=1.0"] if model.startswith("whisper") else []
    place = [
        f"dataset.root={tmp_path / 'corpus'}",
        f"output={tmp_path / 'out'}",
        "logger=none",
        "trainer.threads=1",
        "seed=0",
    ]
    run = command("-m", f"experiment={experiment}", *place, *small, *short, *jobs)
    assert run.returncode == 0, run.stderr[-2000:]
    results = [json.loads(path.read_text()) for path in (tmp_path / "out" / "result").glob("*/result.json")]
    asked = len(jobs[0].split(",")) * len(jobs[1].split(","))
    assert len(results) == asked and len(list((tmp_path / "out" / "original").glob("*/DONE"))) == 1
    assert len(list((tmp_path / "out" / "oracle").glob("*/DONE"))) == len(jobs[1].split(","))
    for result in results:
        assert set(result["comparison"]) == {"original", "oracle", "unlearned"}
        assert result["comparison"]["oracle"]["accuracy_test"]["value"] is not None
