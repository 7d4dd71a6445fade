"""Fixtures of several files: a model that one stage trained, and a finished run whose original is used elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from support import stage_runs
from support.stage_runs import CLASSES, EACH, RATE
from support.user_checkpoints import copied, only

from speechforget import pipeline
from speechforget.data.batches.augment import Augment
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms


@pytest.fixture(scope="session")
def sources() -> Sources:
    """Return tones of three pitches and their subsets."""
    generator = np.random.default_rng(0)
    count, samples = CLASSES * EACH, RATE // 2
    labels = np.arange(count) % CLASSES
    pitch = 300.0 * (labels + 1)[:, None] + generator.normal(0, 20, (count, 1))
    tones = np.sin(2 * np.pi * pitch * np.arange(samples) / RATE) + generator.normal(0, 0.3, (count, samples))
    flat = (tones * 8000).astype(np.int16).ravel()
    waveforms = Waveforms(Mapped(flat, np.arange(count) * samples), np.full(count, samples), samples)
    everyone = np.arange(count)
    rows = {
        "all": everyone,
        "train": everyone[:36],
        "validation": everyone[36:42],
        "validation_request": everyone[36:42],
    }
    rows |= {"forget": everyone[:6], "retain": everyone[6:36]}
    return Sources(waveforms, labels, rows, Augment(shift=0.1, noise=0.5, masks=1, mask_frequency=0.2, mask_time=0.2))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Path:
    """Return the folder of a model that was trained on them; tests must not change it."""
    return stage_runs.trained(tmp_path_factory.mktemp("stages") / "original", sources)


@pytest.fixture(scope="session")
def trained(configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that trained its original, for as many epochs as every run here."""
    output = tmp_path_factory.mktemp("trained")
    pipeline.run(configure(f"output={output}"))
    return output


@pytest.fixture(scope="session")
def checkpoint(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its original, elsewhere; tests must copy it before they change it."""
    return copied(only(list(trained.glob("original/*-*[0-9a-f]"))), tmp_path_factory.mktemp("mine") / "model")
