"""Spoken sentences: transcripts, sources of noise, and draws that nothing else moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechforget.data.audio.cache import decode
from speechforget.data.corpora import espeak, espeak_clips, espeak_sentences, noise_sources, sentence_grammar
from speechforget.data.split import split
from speechforget.data.tables.transcript import letters, spelled
from speechforget.errors import UserError

TINY = {"voices": ["en-us+m1", "en-029+f1"], "sentences": 4}
RATE = espeak_clips.SAMPLE_RATE


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the tiny corpus."""
    cache = tmp_path_factory.mktemp("spoken")
    espeak_sentences.index(None, "text", cache, **TINY)
    return cache


@pytest.fixture
def unspoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables without recordings."""
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: None)


def table(label: str = "text", **options: object) -> pd.DataFrame:
    return espeak_sentences.index(None, label, Path("cache"), **options).table


def test_sentences_are_the_same_to_the_byte_in_two_caches(spoken: Path, tmp_path: Path) -> None:
    """The second has one sentence less, and a voice more."""
    longer = espeak_sentences.index(None, "text", spoken, **TINY)
    other = {"voices": [*TINY["voices"], "en+m2"], "sentences": 3}
    second = espeak_sentences.index(None, "text", tmp_path, **other)
    shared = sorted(set(longer.table["id"]) & set(second.table["id"]))
    assert len(shared) == 6
    assert longer.root != second.root
    for identity in shared:
        assert (longer.root / identity).read_bytes() == (second.root / identity).read_bytes()
    assert set(longer.table.loc[longer.table["id"].isin(shared), "noise"]) >= {"babble", "white"}


def test_recordings_last_as_long_as_their_sentence_and_a_little_silence(spoken: Path) -> None:
    found = decode(espeak_sentences.index(None, "text", spoken, **TINY), spoken / "decoded", RATE).table
    seconds = found["samples"] / RATE
    assert seconds.nunique() == len(found) == 8
    assert seconds.between(0.7, 4).all()
    assert found["sha1"].is_unique


def test_sentences_are_made_once(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: pytest.fail("made again"))
    espeak_sentences.index(None, "speaker", spoken, **TINY)
    with pytest.raises(pytest.fail.Exception):
        espeak_sentences.index(None, "text", spoken, **{**TINY, "seed": 1})


@pytest.mark.usefixtures("unspoken")
def test_no_voice_says_a_sentence_twice_and_some_sentences_have_several_voices() -> None:
    found = table()
    assert len(found) == 1200
    assert not found.duplicated(["speaker", "text"]).any()
    voices = found.groupby("text")["speaker"].nunique()
    shared = found["text"].map(voices) > 1
    assert 0.2 < shared.mean() < 0.8
    assert shared.groupby(found["speaker"]).sum().min() >= 4
    tested = found.query("subset == 'test'")
    assert tested["speaker"].nunique() == 6
    assert set(found["speaker"]) == set(espeak.index(None, "word", Path("cache")).table["speaker"])
    assert set(found["text"].str.split().explode()) == {
        word for text in found.query("subset == 'train'")["text"] for word in text.split()
    }


@pytest.mark.usefixtures("unspoken")
def test_every_source_of_noise_is_heard_in_training_with_every_voice() -> None:
    found = split(table(), "noise").query("subset == 'train'")
    assert found.groupby(["speaker", "noise"]).size().unstack().min().min() >= 1
    assert found["noise"].value_counts().min() > 100


@pytest.mark.usefixtures("unspoken")
def test_more_voices_or_sentences_move_no_draw() -> None:
    few, more = table(voices=5, sentences=10).set_index("id"), table(voices=9, sentences=200).set_index("id")
    assert more.loc[few.index].drop(columns="subset").equals(few.drop(columns="subset"))
    assert not table(seed=1).equals(table())


@pytest.mark.usefixtures("unspoken")
def test_no_seed_changes_what_is_steady() -> None:
    first, second = (espeak_sentences.index(None, "text", Path("cache"), seed=seed) for seed in (0, 1))
    assert first.steady is not None and first.steady.equals(second.steady)
    assert not first.steady.equals(espeak.index(None, "word", Path("cache")).steady)


@pytest.mark.usefixtures("unspoken")
def test_speakers_are_tested_with_sentences_that_they_do_not_train_on() -> None:
    found = table("speaker")
    assert (found.query("subset == 'test'").groupby("speaker").size() == 8).all()
    assert found.query("subset == 'test'")["speaker"].nunique() == 30


def test_the_grammar_is_spelled_and_has_each_sentence_once() -> None:
    every = [text for form in sentence_grammar.sentences() for text in form]
    assert len(set(every)) == len(every)
    assert all(spelled(text) == text for text in every)
    assert {len(text.split()) for text in every} == {3, 4, 5, 6}
    assert 60 <= len({word for text in every for word in text.split()}) <= 120
    assert len(letters(every)) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sentences": 1}, r"sentences=1 must be 2 to \d+"),
        ({"sentences": 10**6}, "no voice says a sentence twice"),
        ({"test": 1}, "between 0 and 1"),
        ({"noises": []}, "at least one source"),
        ({"noises": ["hum", "hum"]}, "each once"),
        ({"noises": ["hun"]}, "contains 'hun': did you mean 'hum'"),
        ({"voices": 1}, "choose 2 to"),
        ({"voices": ["xx+m1", "en+m1"]}, "no voice 'xx.*change dataset.corpus.voices"),
        ({"label": "word"}, "which espeak_sentences does not have"),
    ],
)
def test_options_without_sense_say_why(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        espeak_sentences.index(**{"root": None, "label": "text", "cache": tmp_path, **TINY, **options})


def power(samples: np.ndarray, low: float, high: float) -> float:
    """Return the share of the power between two frequencies in Hz."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum() / spectrum.sum())


BABBLE = np.sin(np.arange(3 * RATE) / 7) * np.linspace(0.1, 1, 3 * RATE)


@pytest.mark.parametrize("source", noise_sources.SOURCES)
def test_noise_has_unit_power_and_depends_on_its_seed_alone(source: str) -> None:
    first, again, other = (noise_sources.noise(source, 20001, RATE, draw, BABBLE) for draw in (5, 5, 6))
    assert len(first) == 20001
    assert np.mean(np.square(first)) == pytest.approx(1)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.isfinite(noise_sources.noise(source, 300, RATE, 5, BABBLE)).all()


def test_hum_is_fifty_hertz_with_harmonics_and_the_same_but_for_its_phase() -> None:
    first, second = (noise_sources.noise("hum", RATE, RATE, draw, None) for draw in (1, 2))
    assert power(first, 49.5, 50.5) == pytest.approx(1 / sum(k**-2 for k in range(1, 13)), rel=1e-6)
    assert power(first, 0, 610) == pytest.approx(1)
    assert np.allclose(np.abs(np.fft.rfft(first)), np.abs(np.fft.rfft(second)), atol=1e-3)
    assert np.allclose(first[320:], first[:-320], atol=1e-6)


def test_clicks_are_sparse_and_white_noise_is_flat() -> None:
    clicks, white = (noise_sources.noise(source, 4 * RATE, RATE, 3, None) for source in ("clicks", "white"))
    assert np.mean(np.abs(clicks) > 0.1) < 0.05
    assert np.abs(clicks).max() > 8
    assert np.abs(white).max() <= np.sqrt(3) * 1.01
    assert power(white, 0, RATE / 4) == pytest.approx(0.5, abs=0.02)


def test_the_noise_is_as_loud_as_drawn_beside_the_whole_recording(tmp_path: Path) -> None:
    from speechforget.data.corpora.espeak_sentence_synthesis import write

    sentence = 0.1 * np.sin(np.arange(RATE) * 0.3)
    clip = {"id": "a/1.wav", "noise": "hum", "snr": 10.0, "before": 0.1, "after": 0.2, "draw": 4}
    write(clip, sentence, None, tmp_path, RATE)
    samples, rate = soundfile.read(tmp_path / "a/1.wav")
    assert (rate, len(samples)) == (RATE, round(1.3 * RATE))
    quiet = np.concatenate([samples[: RATE // 10], samples[-RATE // 5 :]])
    assert 10 * np.log10(np.mean(sentence**2) / np.mean(quiet**2)) == pytest.approx(10, abs=0.3)
