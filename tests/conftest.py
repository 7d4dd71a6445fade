"""Fixtures: a small corpus of synthetic tones, and ways to run the project on it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything reads it: test processes share the cores

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf
from support import made_corpora, warm
from support.made_corpora import MakeCorpus

from speechforget.data.corpora import crema_d, librispeech, ravdess
from speechforget.training.runtime import settle

# Failed assertions of helpers show values, too.
pytest.register_assert_rewrite("support.reference_cases", "support.tiny")
# Other processes may use the cores.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
settle()  # as the command line does, before torch is loaded

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
WORDS, SPEAKERS, TAKES, RATE = 4, 5, 8, 8000

Run = Callable[..., subprocess.CompletedProcess[str]]


# Files that take over 30 seconds in the fast tests or the slow ones; one process runs a whole file.
LONGEST = ["test_slurm.py", "test_readme.py", "test_models.py", "test_pipeline.py", "test_ranks.py", "test_team.py"]
LONGEST += ["test_pretrained.py", "test_tracking.py", "test_attack_cheats.py", "test_faults.py", "test_method_table.py"]
LONGEST += ["test_experiments.py", "test_interruption.py", "test_checkpoint.py", "test_stages.py", "test_tune.py"]
LONGEST += ["test_page.py"]
TURN = {name: turn for turn, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no process waits for them at the end."""
    items.sort(key=lambda item: TURN.get(item.path.name, len(TURN)))


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make `<word>/<speaker>_NO_<take>.wav` at 8 kHz: a word is a pitch, a speaker an overtone; lengths differ."""
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    for word in range(WORDS):
        (folder / f"word{word}").mkdir()
        for speaker in range(SPEAKERS):
            for take in range(TAKES):
                time = np.arange(int(RATE * generator.uniform(0.3, 0.5))) / RATE
                pitch = 300 * (word + 1) * generator.uniform(0.97, 1.03)
                sound = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * (1500 + 300 * speaker) * time)
                sound += generator.normal(0, 0.3, len(time))
                soundfile.write(folder / f"word{word}" / f"speaker{speaker}_NO_{take}.wav", 0.2 * sound, RATE)
    return folder


@pytest.fixture(scope="session")
def small(tones: Path) -> list[str]:
    """Return overrides for a run on the tones that takes seconds."""
    return [
        "dataset=folder",
        f"dataset.root={tones}",
        "dataset.corpus.speaker_pattern='^(.+)_NO_'",
        "dataset.sample_rate=8000",
        "dataset.seconds=0.5",
        "model.channels=[8,8]",
        "train.epochs=4",
        "train.batch_size=16",
        "train.warmup=1",
        "trainer.threads=1",
        "logger=none",
    ]


@pytest.fixture(scope="session")
def configure(small: list[str]) -> Callable[..., dict[str, Any]]:
    """Return configure(overrides ...), which resolves a whole config for the tones."""

    def make(*overrides: str) -> dict[str, Any]:
        if any(override.startswith("model=") for override in overrides):  # it has other options
            chosen = [*(override for override in small if not override.startswith("model.")), *overrides]
        else:
            chosen = [*small, *overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=chosen)
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]

    return make


@pytest.fixture(scope="session")
def command() -> Run:
    """Return command(arguments ...), which runs `python run.py arguments` in the repository and captures its output.

    A PYTHON variable in env, such as PYTHONPATH, starts a new interpreter; other commands are forks (support/warm.py).
    """

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        own = options.pop("env", {})
        environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", **own}
        environment = {name: value for name, value in environment.items() if value is not None}
        words = [str(ROOT / "run.py"), *arguments]
        options = {"cwd": ROOT, "timeout": 300, "env": environment, **options}
        if any(name.startswith("PYTHON") for name in own):
            return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)
        return warm.run(words, **options)

    return run


@pytest.fixture
def few_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the published counts of corpora to those of the small copies."""
    monkeypatch.setattr(ravdess, "ACTORS", 3)
    monkeypatch.setattr(crema_d, "PUBLISHED", 120)
    monkeypatch.setattr(crema_d, "USUAL", {str(actor): 24 for actor in range(1001, 1006)})
    monkeypatch.setattr(librispeech, "PUBLISHED", {"train-clean-100": (114, 6)})


@pytest.fixture(scope="session")
def made_corpus(tmp_path_factory: pytest.TempPathFactory) -> MakeCorpus:
    """Return made_corpus(name), which makes a small copy of a corpus that tests must not change."""
    top = tmp_path_factory.mktemp("corpora")
    return functools.cache(lambda name: getattr(made_corpora, f"make_{name}")(top / name))


@pytest.fixture
def make_corpus(tmp_path: Path, made_corpus: MakeCorpus, few_published: None) -> MakeCorpus:
    """Return make_corpus(name), which makes a small copy of a corpus for one test."""
    return lambda name: Path(shutil.copytree(made_corpus(name), tmp_path / "root", copy_function=made_corpora.copy))
