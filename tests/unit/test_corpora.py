"""Corpora with their own layouts, and the synthetic one."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from speechforget.data.audio.cache import decode
from speechforget.data.corpora import arabic_speech_commands, base, espeak, espeak_clips, speech_commands
from speechforget.data.split import split
from speechforget.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
CONF = Path(__file__).parents[2] / "conf" / "dataset"
ARABIC, COMMANDS = SHARED / "arabic-speech-commands", SHARED / "speech_commands_v0.02"
TINY = {"words": ["yes", "no"], "voices": 2, "renderings": 3}
needs_arabic = pytest.mark.skipif(not ARABIC.is_dir(), reason="Arabic Speech Commands is not here")
needs_commands = pytest.mark.skipif(not COMMANDS.is_dir(), reason="the piece of Speech Commands is not here")


def test_every_dataset_yaml_names_a_function_that_takes_its_options() -> None:
    for path in sorted(CONF.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        assert config["name"] == path.stem
        module, _, name = config["corpus"].pop("_target_").rpartition(".")
        function = getattr(import_module(module), name)
        inspect.signature(function).bind(root=None, label="word", cache=Path(), **config["corpus"])


@needs_arabic
def test_arabic_by_take_and_by_the_authors_lists(tmp_path: Path) -> None:
    table = arabic_speech_commands.index(ARABIC, "word", tmp_path).table
    assert len(table) == 6000
    assert (table["take"] == "9").equals(table["subset"] == "test")
    result = split(table, "speaker")
    assert result["subset"].value_counts().to_dict() == {"train": 3325, "test": 1200, "holdout": 974, "validation": 501}
    assert (
        result[result["subset"] == "holdout"].groupby("speaker").size().between(17, 47).all()
    )  # 32, to three standard deviations
    authors = arabic_speech_commands.index(ARABIC, "word", tmp_path, split="authors").table
    listed = pd.read_csv(SHARED / "arabic-speech-commands_files.csv", dtype=str)
    expected = (
        listed["split"]
        .replace("val", "validation")
        .set_axis(listed["file"].str.removeprefix("arabic-speech-commands/"))
    )
    assert authors.set_index("id")["subset"].equals(expected.reindex(authors["id"]).rename("subset").rename_axis("id"))


@needs_arabic
def test_arabic_splits_that_cannot_be() -> None:
    cache = Path()
    for options, words in (
        ({"label": "speaker", "split": "authors"}, "keeps speakers apart"),
        ({"label": "word", "split": "random"}, "take or authors"),
        ({"label": "word", "test_takes": [2]}, "take 2, which does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            arabic_speech_commands.index(ARABIC, cache=cache, **options)


@needs_commands
def test_speech_commands_35_words_follow_the_official_lists(tmp_path: Path) -> None:
    indexed = speech_commands.index(COMMANDS, "word", tmp_path, classes=35)
    listed = pd.read_csv(SHARED / "speech_commands_v0.02_files.csv", dtype=str, keep_default_na=False).set_index("path")
    listed = listed[listed["word"] != "_background_noise_"].loc[indexed.table["id"]]
    assert (
        indexed.table["subset"].tolist() == listed["split"].replace({"training": "train", "testing": "test"}).tolist()
    )
    assert indexed.table["word"].tolist() == listed["word"].tolist()
    assert {path.name for path in indexed.noise} == {
        "boiler.wav",
        "pink_noise.wav",
        "washing_machine.wav",
        "white_noise.wav",
    }
    audio = decode(indexed, tmp_path / "cache", 16000)
    assert audio.table["sha1"].tolist() == listed["pcm_sha1"].tolist()
    assert audio.table["sha1"].duplicated().sum() == 31
    result = split(audio.table, "word")
    assert result.groupby("sha1")["subset"].nunique().max() == 1
    assert len(result) == 1556


@needs_commands
def test_speech_commands_twelve_classes(tmp_path: Path) -> None:
    table = speech_commands.index(COMMANDS, "word", tmp_path).table
    assert set(table["word"]) == {*speech_commands.TEN_WORDS, "unknown", "silence"}
    counts = pd.crosstab(table["subset"], table["word"])
    ten = counts[list(speech_commands.TEN_WORDS)].sum(axis=1)
    assert (counts["silence"] == (0.1 * ten).round()).all()
    assert (counts["unknown"] <= (0.1 * ten).round()).all()
    unknown, silence = table[table["word"] == "unknown"], table[table["word"] == "silence"]
    assert not set(unknown["spoken"]) & {*speech_commands.TEN_WORDS, ""}
    assert (unknown["spoken"] == unknown["path"].str.partition("/")[0]).all()
    assert silence["id"].str.fullmatch(r"_background_noise_/\w+\.wav@\d+\.\d{3}").all()
    for path, windows in silence.groupby("path"):
        length = soundfile.info(COMMANDS / path).duration
        assert (windows["start"] + 1 <= length).all() and (windows["start"] >= 0.2 * length).all()
    again, other = (speech_commands.index(COMMANDS, "word", tmp_path, seed=seed).table for seed in (0, 1))
    assert table.equals(again)
    assert set(other.loc[other["word"] == "silence", "id"]) != set(silence["id"])
    for label in ("word", "speaker"):  # a report uses this to recognise both seeds as one corpus
        kept, drawn = (speech_commands.index(COMMANDS, label, tmp_path, seed=seed).steady for seed in (0, 1))
        assert kept.equals(drawn) and len(kept) > 300
    assert len(decode(speech_commands.index(COMMANDS, "word", tmp_path), tmp_path, 16000).table) == len(table)


@needs_commands
def test_speech_commands_speakers(tmp_path: Path) -> None:
    table = speech_commands.index(COMMANDS, "speaker", tmp_path).table
    assert table["speaker"].nunique() == 31
    shares = table.groupby("speaker")["subset"].apply(lambda subsets: (subsets == "test").mean())
    sizes = table.groupby("speaker").size()
    assert ((shares - 0.2).abs() <= 3 * np.sqrt(0.16 / sizes) + 1e-9).all() and abs(
        (table["subset"] == "test").mean() - 0.2
    ) < 0.03
    result = split(table, "speaker")
    assert set(result.loc[result["subset"] == "test", "label"]) <= set(result.loc[result["subset"] == "train", "label"])


def test_speech_commands_that_are_not_there(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"dataset.root=FOLDER.*CC BY"):
        speech_commands.index(None, "word", tmp_path)
    with pytest.raises(UserError, match="is not Speech Commands"):
        speech_commands.index(tmp_path, "word", tmp_path)
    from speechforget._torchaudio import torchaudio

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", unreachable)
    with pytest.raises(UserError, match="no route to host"):
        speech_commands.index(tmp_path / "new", "word", tmp_path, download=True)


def test_downloaded_speech_commands_are_found(tmp_path: Path, monkeypatch) -> None:
    from speechforget._torchaudio import torchaudio

    def fetch(root: str, url: str, download: bool) -> None:
        assert download
        folder = Path(root) / "SpeechCommands" / url
        for path in ("yes/a_nohash_0.wav", "no/a_nohash_0.wav", "no/b_nohash_0.wav"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / path, np.zeros(16000), 16000)
        (folder / "validation_list.txt").write_text("")
        (folder / "testing_list.txt").write_text("no/b_nohash_0.wav\n")

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", fetch)
    found = speech_commands.index(tmp_path / "new", "word", tmp_path, classes=35, download=True)
    assert found.table["subset"].tolist() == ["train", "test", "train"]
    with pytest.raises(UserError, match="silence=0"):
        speech_commands.index(tmp_path / "new", "word", tmp_path, silence=0.5)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the tiny espeak corpus."""
    cache = tmp_path_factory.mktemp("spoken")
    espeak.index(None, "word", cache, **TINY)
    return cache


def test_espeak_is_the_same_to_the_sample_in_two_caches(spoken: Path, tmp_path: Path) -> None:
    first, second = (
        decode(espeak.index(None, "word", cache, **TINY), cache / "decoded", 16000) for cache in (spoken, tmp_path)
    )
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.samples(), second.samples())
    assert first.table["sha1"].is_unique
    assert len(first.table) == 12
    assert (first.table["samples"] >= 16000).all()


def test_espeak_is_made_once(spoken: Path, monkeypatch) -> None:
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: pytest.fail("made again"))
    made = espeak.index(None, "speaker", spoken, **TINY)
    (made.root / "DONE").unlink()
    with pytest.raises(pytest.fail.Exception):
        espeak.index(None, "speaker", spoken, **TINY)
    (made.root / "DONE").touch()


def test_a_clip_does_not_depend_on_the_others(spoken: Path, tmp_path: Path) -> None:
    few, more = (
        espeak.index(None, "word", spoken, **TINY),
        espeak.index(None, "word", tmp_path, **{**TINY, "words": ["go", "no"]}),
    )
    for identity in few.table.loc[few.table["word"] == "no", "id"]:
        assert (few.root / identity).read_bytes() == (more.root / identity).read_bytes()


def test_espeak_tests_unheard_voices_or_other_renderings(monkeypatch) -> None:
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: None)
    words = espeak.index(None, "word", Path("cache")).table
    tested = set(words.loc[words["subset"] == "test", "speaker"])
    assert len(tested) == 6
    assert words["speaker"].nunique() == 30
    assert not tested & set(words.loc[words["subset"] == "train", "speaker"])
    held_out = split(words, "word").query("subset == 'holdout'").groupby("word").size()
    assert len(held_out) == 10
    assert held_out.min() >= 30
    speakers = espeak.index(None, "speaker", Path("cache")).table
    assert set(speakers.loc[speakers["subset"] == "test", "rendering"]) == {"7", "8"}
    assert not {voice.partition("+")[2] for voice in words["speaker"]} & espeak_clips.NOT_REPRODUCIBLE


def test_espeak_says_the_accent_and_where_known_the_sex(monkeypatch) -> None:
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: None)
    voices = ["en+m1", "en-029+f4", "en-us+Lee", "en-us+klatt", "en-gb-scotland"]
    table = espeak.index(None, "word", Path("cache"), voices=voices).table
    said = table.drop_duplicates("speaker").set_index("speaker")[["accent", "sex"]]
    assert said.apply(tuple, axis=1).to_dict() == {
        "en+m1": ("en", "male"),
        "en-029+f4": ("en-029", "female"),
        "en-us+Lee": ("en-us", "male"),
        "en-us+klatt": ("en-us", ""),
        "en-gb-scotland": ("en-gb-scotland", ""),
    }


BAD_OPTIONS: list[tuple[dict[str, object], str]] = [
    ({"voices": 1}, "choose 2 to"),
    ({"voices": 1000}, "choose 2 to"),
    ({"voices": ["en-us+klat3", "en+m1"]}, "did you mean 'klatt3'"),
    ({"voices": ["en-us+whisper", "en+m1"]}, "sounds different in each run"),
    ({"voices": ["xx+m1", "en+m1"]}, "no voice 'xx"),
    ({"words": ["yes"]}, "at least two"),
    ({"words": [True, "go"]}, "into quotation marks"),
    ({"words": ["yes", "yes"]}, "each once"),
    ({"words": ["yes", "a/b"]}, "'a/b'"),
    ({"words": ["yes", "..."]}, r"'\.\.\.'"),
    ({"words": ["yes", "?"]}, "nothing to say|at least"),
    ({"renderings": 1}, "2 or more"),
    ({"test": 1}, "between 0 and 1"),
]


def test_espeak_options_without_sense_say_why(tmp_path: Path) -> None:
    for options, words in BAD_OPTIONS:
        with pytest.raises(UserError, match=words):
            espeak.index(None, "word", tmp_path, **{**TINY, "renderings": 2, **options})


@pytest.mark.parametrize(
    ("place", "words"), [("/dev/full", "is full: make room"), ("..", r"\.wav cannot be written \(Is a directory\)")]
)
def test_a_spoken_recording_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch, place: str, words: str
) -> None:
    run = espeak_clips._run

    def refuse(program: str, job: Path, count: int, options: str) -> None:
        for clip in json.loads(job.read_text())["clips"]:
            (job.parent / clip["id"]).parent.mkdir(exist_ok=True)
            (job.parent / clip["id"]).symlink_to(place)
        run(program, job, count, options)

    monkeypatch.setattr(espeak_clips, "_run", refuse)
    with pytest.raises(UserError, match=words):
        espeak.index(None, "word", tmp_path, **TINY)


def test_the_data_modules_need_no_torch() -> None:
    data = Path(base.__file__).parents[1]
    heavy_ones = {"augment", "keys", "planted", "streams", "sample_sources", "trigger", "triggered", "waveforms"}
    paths = [path for path in data.rglob("*.py") if path.stem not in heavy_ones]
    names = [".".join(path.relative_to(data).with_suffix("").parts) for path in paths]
    heavy = {"torch", "sklearn", "scipy", "hydra", "lightning"}
    load = f"for name in {names}: __import__('speechforget.data.' + name)"
    program = f"import sys\n{load}\nassert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
