"""Recordings are the same wherever they come from: a mapped file, a device's memory, or the files themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechforget.data.batches.sample_sources import Mapped, OnDemand, Recordings, Resident
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.score_files import read_scores
from speechforget.stages.sources import make_sources
from speechforget.store import Store

LENGTHS = np.array([30, 55, 7, 80], dtype=np.int64)
OFFSET = np.cumsum(LENGTHS) - LENGTHS
FLAT = np.arange(1, LENGTHS.sum() + 1, dtype=np.int16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The utterances of FLAT in two files: of 16 bit, and of floats with two channels."""
    folder = tmp_path_factory.mktemp("files")
    soundfile.write(folder / "a.wav", FLAT[:85], 8000, subtype="PCM_16")
    soundfile.write(folder / "b.wav", np.stack([FLAT[85:], FLAT[85:]], axis=1) / 32768, 8000, subtype="FLOAT")
    return [folder / "a.wav", folder / "a.wav", folder / "b.wav", folder / "b.wav"]


def kinds(files: list[Path]) -> dict[str, Recordings]:
    return {
        "mapped": Mapped(FLAT, OFFSET),
        "resident": Resident(FLAT, OFFSET, torch.device("cpu")),
        "on demand": OnDemand(files.__getitem__, np.array([0, 30, 0, 7]), LENGTHS, 8000),
    }


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(-25, 25),
    st.integers(1, 100),
)
def test_all_kinds_give_the_same(files: list[Path], rows: list[int], position: float, delay: int, samples: int) -> None:
    chosen, delays = np.array(rows), np.full(len(rows), max(-samples, min(delay, samples)))
    delays = np.maximum(delays, -np.minimum(LENGTHS[chosen], samples))
    for recordings in kinds(files).values():
        waveform, lengths = Waveforms(recordings, LENGTHS, samples).gather(chosen, position, delays)
        for number, row in enumerate(rows):
            crop = min(LENGTHS[row], samples)
            start = OFFSET[row] + int((LENGTHS[row] - crop) * position)
            expected = np.zeros(3 * samples)
            expected[samples + delays[number] : samples + delays[number] + crop] = FLAT[start : start + crop]
            expected = expected[samples : 2 * samples]
            assert lengths[number] == min(crop + delays[number], samples)
            assert np.array_equal(waveform[number].numpy() * 32768, expected)


def test_a_file_that_vanishes_or_shrinks_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(50), 8000)
    recordings = OnDemand(
        lambda row: tmp_path / ["a.wav", "b.wav"][row], np.zeros(2, np.int64), np.array([80, 80]), 8000
    )
    for row, words in ((0, "a.wav became shorter"), (1, "b.wav cannot be read")):
        with pytest.raises(UserError, match=words):
            recordings.read(np.array([row]), np.array([0]), 80)


@pytest.mark.slow
def test_a_run_without_decoded_recordings_makes_the_same_models(
    configure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    made = []
    for cache in ("decoded", "none"):
        place = tmp_path / cache
        config = configure(
            f"output={place}", "method=finetune", "train.epochs=1", "method.epochs=1", f"dataset.cache={cache}"
        )
        pipeline = Pipeline(config, Store(place))
        pipeline.result()
        made.append({path.relative_to(place): path.read_bytes() for path in place.glob("[!c]*/*/*.safetensors")})
        assert bool(list(place.glob("cache/audio*/*/samples.npy"))) == (cache == "decoded")
    assert made[0].keys() == made[1].keys() and len(made[0]) == 3
    assert made[0] == made[1]


def test_several_windows_of_a_long_utterance_are_averaged(
    configure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from speechforget.models.folder import load_classifier
    from speechforget.stages.score import score

    overrides = ["only=original", "train.epochs=1", f"output={tmp_path}", "dataset.seconds=0.35"]
    middle = configure(*overrides)
    pipeline = Pipeline(middle, Store(tmp_path))
    original = pipeline.train("original")
    model, _ = load_classifier(original.folder)
    config = configure(*overrides, "dataset.windows=3")
    sources = make_sources(config, pipeline.data, None)
    score(tmp_path, original.folder, sources, config["trainer"], "scores")
    (tmp_path / "DONE").write_text("")
    found = {name: np.load(tmp_path / f"{name}.npy") for name in ("logits", "loss", "embedding")}
    samples, lengths = sources.waveforms.samples, sources.waveforms.length
    assert 0 < (lengths > samples).sum() < len(lengths)
    for row in (int(np.argmax(lengths)), int(np.argmin(lengths))):
        crops = [
            sources.waveforms.gather(np.array([row]), position)
            for position in ((0.0, 0.5, 1.0) if lengths[row] > samples else (0.5,))
        ]
        with torch.no_grad():
            outputs = [model(*crop) for crop in crops]
        logits = torch.stack([output.logits[0] for output in outputs]).mean(0)
        assert np.allclose(found["logits"][row], logits, atol=1e-5)
        assert np.allclose(
            found["embedding"][row], torch.stack([output.embedding[0] for output in outputs]).mean(0), atol=1e-5
        )
        assert found["loss"][row] == pytest.approx(
            -float(logits.double().log_softmax(0)[pipeline.data.numbers[row]]), abs=1e-5
        )


def test_models_that_hear_alike_share_features_and_others_do_not(
    configure: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch
) -> None:
    from speechforget.models.layers.frontend import LogMel
    from speechforget.stages import feature_cache

    heard = []
    forward = LogMel.forward
    monkeypatch.setattr(
        LogMel, "forward", lambda self, *inputs: (heard.append(len(inputs[0])), forward(self, *inputs))[1]
    )
    monkeypatch.setattr("speechforget.stages.score._features", feature_cache.FeatureCache())
    config = configure(f"output={tmp_path}", "method=none", "train.epochs=1")
    pipeline = Pipeline(config, Store(tmp_path))
    models = [pipeline.train("original"), pipeline.train("oracle")]
    heard.clear()
    scores = [pipeline.score(name, model) for name, model in zip(("original", "oracle"), models, strict=True)]
    assert sum(heard) == len(pipeline.data.table)
    assert not np.array_equal(*(read_scores(artefact.folder)["logits"] for artefact in scores))
    other = Pipeline(
        configure(f"output={tmp_path}", "method=none", "train.epochs=1", "model.bands=20"), Store(tmp_path)
    )
    model = other.train("original")
    heard.clear()
    other.score("original", model)
    assert sum(heard) == len(pipeline.data.table)


def test_noise_is_heard_from_where_no_utterance_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is trained on: stretches of a second or more; if they are few, synthetic noise and one warning."""
    import pandas as pd

    from speechforget.data.audio.cache import decode
    from speechforget.data.corpora.base import Corpus
    from speechforget.stages.sources import background_noise
    from speechforget.stages.split import Data

    sound = np.arange(1, 20001, dtype=np.int16)
    soundfile.write(tmp_path / "noise.wav", sound, 1000, subtype="PCM_16")
    soundfile.write(tmp_path / "word.wav", sound[:1000], 1000, subtype="PCM_16")

    def data(*starts: float) -> Data:
        rows = [(f"noise.wav@{start:.3f}", "noise.wav", start, "silence") for start in starts] + [
            ("word.wav", "word.wav", 0.0, "go")
        ]
        table = pd.DataFrame(rows, columns=["id", "path", "start", "word"]).assign(seconds=1.0, subset="")
        audio = decode(Corpus("test", tmp_path, table, (tmp_path / "noise.wav",)), tmp_path / "cache", 1000)
        return Data(audio, audio.table[:0], ["go", "silence"], "key")

    heard = background_noise(data(1.0, 2.5, 8.0), 1000)
    assert np.array_equal(
        heard, np.concatenate([sound[:1000], sound[3500:8000], sound[9000:]])
    )  # not the half second from 2 on
    assert np.array_equal(background_noise(data(1.0, 2.5, 8.0), 1000, kept=False), heard)
    assert not caplog.text
    few = data(*np.arange(9.9))
    for _ in range(3):
        assert len(background_noise(few, 1000)) == 10000
        assert background_noise(data(*np.arange(10.9)), 1000) is None
    assert caplog.text.count("synthetic noise") == 1 and "9 s of the corpus's background noise" in caplog.text


def test_a_split_is_read_from_whatever_cache_holds_its_recordings(tmp_path: Path) -> None:
    """Two copies of a corpus are decoded in different orders, one with a bad file: utterances keep their samples."""
    import pandas as pd

    from speechforget.data.audio.cache import decode
    from speechforget.data.corpora.base import Corpus
    from speechforget.stages.sources import open_recordings
    from speechforget.stages.split import split_corpus
    from speechforget.store import Store

    made: dict[str, Corpus] = {}
    rows = [
        (f"{'abc'[file]}@{start}", f"{file}.wav", float(start), f"w{start % 2}", "test" if start == 3 else "")
        for file in range(3)
        for start in range(4)
    ]
    draw = np.random.default_rng(0)
    sounds = [draw.integers(-999, 999, 4000).astype(np.int16) for _ in range(3)]
    for name, names in (("one", ("x", "y", "z")), ("two", ("z", "y", "x"))):
        table = pd.DataFrame(rows, columns=["id", "path", "start", "word", "subset"]).assign(seconds=1.0)
        table["path"] = table["path"].map({f"{file}.wav": f"{names[file]}.wav" for file in range(3)})
        (tmp_path / name).mkdir()
        for file, sound in zip(names, sounds, strict=True):
            soundfile.write(tmp_path / name / f"{file}.wav", sound, 1000, subtype="PCM_16")
        broken = pd.DataFrame([{**table.iloc[0], "id": "0 bad", "path": "bad.wav"}]) if name == "two" else table[:0]
        soundfile.write(tmp_path / name / "bad.wav", np.zeros(10), 1000)
        made[name] = Corpus("test", tmp_path / name, pd.concat([broken, table], ignore_index=True))
    config = {
        "dataset": {
            **{
                "name": "test",
                "label": "word",
                "root": None,
                "sample_rate": 1000,
                "on_bad_audio": "skip",
                "resident": "host",
            },
            **{"validation": 0.1, "holdout": 0.2, "copies": "include", "split_seed": 0},
            **{"planted": {"kind": None}, "confused": {"classes": None}, "mislabelled": {"percent": None}},
            **{"backdoor": {"target": None}, "dependent": {"column": None}},
        },
        "lock": "flock",
        "cache": str(tmp_path / "cache"),
    }
    keys = set()
    for name in ("one", "two"):
        for cache in ("decoded", "none"):
            dataset = {**config["dataset"], "cache": cache, "corpus": {"_target_": "builtins.dict"}}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("hydra.utils.instantiate", lambda *_, name=name, **__: made[name])
                data = split_corpus({**config, "dataset": dataset}, Store(tmp_path))
            keys.add(data.key)
            read = open_recordings(dataset, data, None).read(
                np.arange(len(data.table)), np.zeros(len(data.table), dtype=np.int64), 1000
            )
            for identity, samples in zip(data.table["id"], read.numpy(), strict=True):
                start = int(identity[2:]) * 1000
                assert np.array_equal(samples, sounds["abc".index(identity[0])][start : start + 1000]), (
                    name,
                    cache,
                    identity,
                )
    assert len(keys) == 1
    assert (
        decode(made["one"], tmp_path / "cache", 1000).folder
        != decode(made["two"], tmp_path / "cache", 1000, "skip").folder
    )


def test_frontends_with_other_numbers_share_no_features() -> None:
    from speechforget.models.layers.frontend import LogMel
    from speechforget.stages.feature_cache import same

    assert same(LogMel(16000), LogMel(16000))
    for change in ({"bands": 20}, {"window": 20.0}, {"hop": 5.0}, {"low": 50.0}, {"high": 6000.0}):
        assert not same(LogMel(16000), LogMel(16000, **change)), change  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [3, "word", [1, 2], {"a": 1}, torch.ones(2)])
def test_what_a_frontend_keeps_to_itself_counts_and_in_doubt_nothing_is_shared(value: object) -> None:
    from speechforget.stages.feature_cache import same

    def frontend(hidden: object) -> torch.nn.Module:
        module = torch.nn.Identity()
        module._hidden = hidden  # type: ignore[assignment]
        return module

    assert not same(frontend(value), frontend(4))
    assert same(frontend(value), frontend(value))
    twin = torch.ones(2) if isinstance(value, torch.Tensor) else type(value)(value)  # type: ignore[call-arg]
    assert same(frontend(value), frontend(twin)) == isinstance(value, (int, str, list))
