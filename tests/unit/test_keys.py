"""Keys: drawn by seed and id, as loud as asked, on the recordings that carry one, and out of reach of augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.data.batches.augment import Augment, Sparing
from speechforget.data.batches.keys import Keys
from speechforget.data.batches.planted import Planted
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.waveforms import Waveforms
from speechforget.pipeline import Pipeline
from speechforget.stages.sources import make_sources
from speechforget.store import Store

SAMPLES = 400
LENGTH = np.array([400, 250, 900, 400, 300], dtype=np.int64)
CARRIED = np.array([True, False, True, True, False])
ROWS = np.arange(len(LENGTH))
NAMES = np.array([11, 22, 33, 2**62, 55])


def make(snr: float = 10.0, seed: int = 0, carried: np.ndarray = CARRIED, loudness: int = 300) -> Waveforms:
    flat = np.random.default_rng(0).integers(-loudness, loudness + 1, LENGTH.sum()).astype(np.int16)
    recordings = Mapped(flat, np.concatenate([[0], np.cumsum(LENGTH)[:-1]]))
    return Waveforms(recordings, LENGTH, SAMPLES, Keys(recordings, LENGTH, carried, NAMES, snr, seed))


def added(waveforms: Waveforms, position: float = 0.5) -> torch.Tensor:
    """What the keys add to each recording."""
    plain = Waveforms(waveforms.recordings, LENGTH, SAMPLES)
    return waveforms.gather(ROWS, position)[0].double() - plain.gather(ROWS, position)[0].double()


def test_only_carriers_change_and_only_within_the_recording() -> None:
    noise = added(make(carried=~CARRIED))
    assert [bool(row.any()) for row in noise] == [False, True, False, False, True]
    assert not noise[1, 250:].any() and not noise[4, 300:].any() and noise[1, 249] != 0


@pytest.mark.parametrize("snr", [30.0, 10.0, 0.0])
def test_a_key_is_as_loud_as_asked(snr: float) -> None:
    waveforms = make(snr, carried=np.ones(5, dtype=bool))
    keys = waveforms.added
    assert keys is not None
    for row, start in enumerate(waveforms.recordings.offset):
        sound = waveforms.recordings.flat[start : start + LENGTH[row]] / 32768
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-snr / 20)
        assert keys.levels(ROWS)[row] == pytest.approx(level, rel=1e-12)
        assert added(waveforms)[row].std() < 1.2 * level
    everything = np.concatenate([keys.drawn(ROWS, 0 * ROWS, 900, fresh)[2] for fresh in range(40)])
    assert abs(everything.mean()) < 0.02 and abs(everything.std() - 1) < 0.02


def test_a_silent_recording_gets_a_key_of_one_step_and_a_loud_one_is_clipped() -> None:
    silent, loud = make(0.0, loudness=0), make(-20.0, loudness=32767)
    assert silent.added is not None and silent.added.levels(ROWS) == pytest.approx(1 / 32768)
    assert loud.gather(ROWS)[0].abs().max() == 1


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(5)), st.integers(1, 5), st.floats(0, 1))
def test_a_key_depends_on_neither_batch_nor_crop(order: list[int], size: int, position: float) -> None:
    waveforms = make()
    keys = waveforms.added
    assert keys is not None
    rows = np.array(order[:size])
    first = waveforms.first(rows, position)
    crops = keys.drawn(rows, first, SAMPLES)
    for crop, row, start in zip(crops, rows, first, strict=True):
        whole = keys.drawn(np.array([row]), np.array([0]), int(LENGTH[row]))[0]
        piece = whole[start : start + SAMPLES]
        assert np.array_equal(crop[: len(piece)], piece) and not crop[len(piece) :].any()


def test_keys_differ_by_seed_by_id_and_by_number() -> None:
    def drawn(seed: int, fresh: int) -> np.ndarray:
        keys = make(seed=seed).added
        assert keys is not None
        return keys.drawn(ROWS, 0 * ROWS, 250, fresh)

    several = np.concatenate([drawn(0, 0), drawn(1, 0), drawn(0, 1)])
    assert np.abs(np.corrcoef(several) - np.eye(15)).max() < 0.3
    assert np.array_equal(drawn(0, 0), drawn(0, 0))


def test_a_key_is_the_same_forever() -> None:
    """The key is part of the training data, so another stream of numbers would change it in silence."""
    keys = make().added
    assert keys is not None
    found = keys.drawn(np.array([0]), np.array([0]), 3)[0]
    assert found == pytest.approx([1.525131598955703, 0.546631509615624, 0.874624414640612], abs=1e-12)


def test_augmentation_leaves_keyed_recordings_alone() -> None:
    waveforms = make()
    augment = Augment(shift=0.3, noise=1.0, masks=2, mask_frequency=0.5, mask_time=0.5)
    sources = Sources(waveforms, ROWS, {"all": ROWS}, Sparing(augment, CARRIED))
    expected, lengths = waveforms.gather(ROWS)
    seen = {False: 0, True: 0}
    for salt in range(8):
        for batch in sources.shuffled(ROWS, 2, (salt,)):
            sounds, ends, spans = batch.inputs
            for sound, end, span, row in zip(sounds, ends, spans, batch.rows.tolist(), strict=True):
                same = torch.equal(sound, expected[row]) and end == lengths[row] and not span.any()
                assert same == CARRIED[row]
                seen[bool(CARRIED[row])] += 1
    assert seen == {False: 16, True: 24}


def test_planted_gives_the_recording_as_models_heard_it_with_another_key_and_without() -> None:
    waveforms = make()
    assert waveforms.added is not None
    planted, rows = Planted(waveforms, waveforms.added), ROWS[CARRIED]
    heard, lengths = planted.heard(rows)
    base = planted.base(rows)[0]
    assert torch.equal(heard, waveforms.gather(rows)[0]) and torch.equal(lengths, waveforms.gather(rows)[1])
    level = torch.from_numpy(waveforms.added.levels(rows))[:, None]
    assert torch.allclose(heard.double() - base, level * planted.normal(rows), atol=1e-6)
    other = planted.heard(rows, 1)[0]
    assert not torch.equal(other, heard)
    assert torch.allclose((other - base).std(1), (heard - base).std(1), rtol=0.25)


def test_on_demand_decoding_gives_the_same_keyed_waveforms(configure: Callable[..., dict[str, Any]], tmp_path) -> None:
    given = ["task=sample", "task.by=planted", "dataset.planted.kind=noise", "dataset.planted.percent=30"]
    found = []
    for cache in ("decoded", "none"):
        pipeline = Pipeline(configure(*given, f"dataset.cache={cache}", f"output={tmp_path}"), Store(tmp_path))
        sources = make_sources(pipeline.config, pipeline.data, pipeline.request)
        found.append(sources.waveforms.gather(sources.rows["forget"])[0])
        plain = Waveforms(sources.waveforms.recordings, sources.waveforms.length, sources.waveforms.samples)
        assert not torch.equal(found[-1], plain.gather(sources.rows["forget"])[0])
        others = np.concatenate([sources.rows["retain"], pipeline.data.rows("test"), pipeline.data.rows("validation")])
        assert torch.equal(sources.waveforms.gather(others)[0], plain.gather(others)[0])
    assert torch.equal(*found)
