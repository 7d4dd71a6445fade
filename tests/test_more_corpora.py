"""Corpora with lists and layouts of their own: complete, with files missing, renamed or listed twice, and somewhere else altogether."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st

from speechforget.data import crema_d, librispeech, ravdess
from speechforget.data.audio import _key, _sounds, decode
from speechforget.data.completeness import check_counts, check_lines, check_listed
from speechforget.data.corpus import Corpus
from speechforget.data.request import select
from speechforget.data.speakers import speakers_apart, test_subset
from speechforget.data.split import split
from speechforget.errors import UserError

test_subset.__test__ = False  # type: ignore[attr-defined]  # a function of the package, not a test

CONF = Path(__file__).parents[1] / "conf" / "dataset"
LAYOUT = Path(__file__).parents[2] / "shared" / "data" / "voxceleb1_layout"
NAMES = ("voxceleb1", "librispeech", "fluent_speech_commands", "slurp", "crema_d", "ravdess")
SAMPLE = yaml.safe_load((CONF.parent / "task" / "sample.yaml").read_text())
needs_layout = pytest.mark.skipif(not LAYOUT.is_dir(), reason="the stand-in for VoxCeleb1 is not here")
generator = np.random.default_rng(0)


def sound(path: Path) -> None:
    """Fifty milliseconds that no other file has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, generator.integers(-9000, 9000, 800).astype(np.int16), 16000)


def copy(source: str, target: str) -> None:
    """A sound file as a link, since no test writes into one; a list as a copy."""
    (os.link if source.endswith((".wav", ".flac")) else shutil.copy)(source, target)


def make_voxceleb1(root: Path) -> Path:
    lines = []
    for speaker in range(4):
        for video in range(4):
            for number in range(5):
                name = f"id1000{speaker}/-v_{video}deo/{number + 1:05}.wav"
                sound(root / "wav" / name)
                lines.append(f"{(1, 1, 2, 3)[video]} {name}\n")
    (root / "iden_split.txt").write_text("".join(lines))
    about = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    about += [f"id1000{speaker}\tSome_Body\t{'mf'[speaker % 2]}\t{('Ireland', 'New Zealand')[speaker // 2]}\tdev" for speaker in range(4)]
    (root / "vox1_meta.csv").write_text("\n".join(about))
    return root


def make_librispeech(root: Path) -> Path:
    top = root / "LibriSpeech"
    about = ["; a comment | with | bars", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for speaker in range(10, 16):
        about.append(f"{speaker:<5}| {'FM'[speaker % 2]} | train-clean-100  | 25.19 | A. Reader | B. Reader")
        for chapter in range(1 if speaker == 10 else 4):
            place = top / "train-clean-100" / str(speaker) / str(100 + chapter)
            names = [f"{speaker}-{100 + chapter}-{number:04}" for number in range(4 + chapter)]
            for name in names:
                sound(place / f"{name}.flac")
            (place / f"{speaker}-{100 + chapter}.trans.txt").write_text("".join(f"{name} SOME WORDS\n" for name in names))
    (top / "SPEAKERS.TXT").write_text("\n".join(about))
    return root


def make_fluent_speech_commands(root: Path) -> Path:
    top = root / "fluent_speech_commands_dataset"
    (top / "data").mkdir(parents=True)
    about = [",speakerId,Self-reported fluency level ,First Language spoken,Current language used for work/school,gender,ageRange"]
    subsets = {"train": range(4), "valid": range(4, 5), "test": range(5, 6)}
    for subset, speakers in subsets.items():
        lines = [",path,speakerId,transcription,action,object,location"]
        for speaker in speakers:
            about.append(f'{speaker},s{speaker},native,"English (Canada)",English (Canada),{("male", "female")[speaker % 2]},22-40')
            for number in range(16):
                path = f"wavs/speakers/s{speaker}/{number:04x}-452c.wav"
                sound(top / path)
                action, thing, place = (("change language", "none", "none"), ("activate", "lights", "kitchen"))[number % 2]
                lines.append(f'{number},{path},s{speaker},"Turn it, please",{action},{thing},{place}')
        (top / "data" / f"{subset}_data.csv").write_text("\n".join(lines))
    (top / "data" / "speaker_demographics.csv").write_text("\n".join(about))
    return root


def make_slurp(root: Path) -> Path:
    place = root / "dataset" / "slurp"
    place.mkdir(parents=True)
    metadata: dict[str, Any] = {}
    for subset in ("train", "devel", "test", "train_synthetic"):
        lines = []
        for entry in range(8):
            identity = str(len(metadata))
            files = [f"audio-{subset}{entry}-{user}{microphone}.flac" for user in range(4) for microphone in ("", "-headset")]
            for file in files:
                sound(root / "audio" / ("slurp_synth" if "synthetic" in subset else "slurp_real") / file)
            scenario, action = (("alarm", "set"), ("email", "sendemail"))[entry % 2]
            recordings = [{"file": file, "wer": 0, "ent_wer": 0, "status": "correct"} for file in files]
            said = {"slurp_id": int(identity), "sentence": "wake me", "intent": f"{scenario}_{action}", "scenario": scenario, "action": action}
            lines.append(json.dumps({**said, "recordings": recordings}))
            users = ("FE-101", "MO-102", "UNK-103", "ME-104")
            named = {file if entry % 2 else file.removeprefix("audio-").removesuffix(".flac"): number // 2 for number, file in enumerate(files)}
            metadata[identity] = {"recordings": {file: {"usrid": users[number]} for file, number in named.items()}}
        (place / f"{subset}.jsonl").write_text("\n".join(lines))
    (place / "metadata.json").write_text(json.dumps(metadata))
    return root


def make_crema_d(root: Path) -> Path:
    for actor in range(1001, 1006):
        for emotion in ("ANG", "HAP", "NEU", "SAD"):
            for sentence in ("DFA", "IEO", "MTI"):
                for level in ("XX", "HI"):
                    sound(root / "AudioWAV" / f"{actor}_{sentence}_{emotion}_{level}.wav")
    (root / "AudioWAV" / "1005_MTI_SAD_XX.wav").rename(root / "AudioWAV" / "1005_MTI_SAD_X.wav")
    rows = [f'{actor},51,"{("Male", "Female")[actor % 2]}","African American","Not Hispanic"' for actor in range(1001, 1006)]
    (root / "VideoDemographics.csv").write_text("\n".join(['"ActorID","Age","Sex","Race","Ethnicity"', *rows]))
    return root


def make_ravdess(root: Path) -> Path:
    for path in ravdess._published()["path"]:
        sound(root / path)
    sound(root / "Actor_01" / "03-02-01-01-01-01-01.wav")  # a song
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published, for trees of a few speakers."""
    monkeypatch.setattr(ravdess, "ACTORS", 3)
    monkeypatch.setattr(crema_d, "PUBLISHED", 120)
    monkeypatch.setattr(crema_d, "USUAL", {str(actor): 24 for actor in range(1001, 1006)})
    monkeypatch.setattr(librispeech, "PUBLISHED", {"train-clean-100": (114, 6)})


Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """made(name) -> a small tree of this corpus that must not be changed."""
    top = tmp_path_factory.mktemp("corpora")
    return functools.cache(lambda name: globals()[f"make_{name}"](top / name))


@pytest.fixture
def make(tmp_path: Path, made: Make) -> Make:
    """make(name) -> the root of a small tree of this corpus, the test's own."""
    return lambda name: Path(shutil.copytree(made(name), tmp_path / "root", copy_function=copy))


def index(name: str, root: Path | None, label: str | None = None, **options: Any) -> Corpus:
    """The corpus as its yaml asks for it."""
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    asked = {option: value for option, value in config["corpus"].items() if option not in {"_target_", "seed"}}
    return import_module(f"speechforget.data.{name}").index(root, label or config["label"], Path(), **{**asked, **options})


REQUESTS = {
    "voxceleb1": ("video", 80, {"speaker", "video", "gender", "nationality"}),
    "librispeech": ("chapter", 114, {"speaker", "chapter", "part", "gender"}),
    "fluent_speech_commands": ("speaker", 96, {"intent", "action", "object", "location", "speaker", "transcription", "gender", "age"}),
    "slurp": ("gender", 192, {"intent", "scenario", "action", "sentence", "speaker", "gender", "native", "microphone"}),
    "crema_d": ("gender", 120, {"speaker", "sentence", "emotion", "level", "gender", "age", "race", "ethnicity"}),
    "ravdess": ("gender", 180, {"speaker", "gender", "emotion", "intensity", "statement", "repetition"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_complete_corpus_is_decoded_split_and_asked_about(name: str, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by, count, columns = REQUESTS[name]
    corpus = index(name, make(name))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    table = corpus.table
    assert len(table) == count
    assert columns <= set(table.columns)
    assert table["id"].is_monotonic_increasing
    assert not table.isna().any().any()
    assert all(isinstance(value, str) for value in table.to_numpy().ravel())
    assert set(table["subset"]) <= {"", "train", "validation", "test"}
    audio = decode(corpus, tmp_path / "cache", 16000)
    assert len(audio.table) == count
    label = yaml.safe_load((CONF / f"{name}.yaml").read_text())["label"]
    divided = split(audio.table, label)
    assert set(divided["subset"]) == {"train", "validation", "holdout", "test"}
    request = select(divided, {**SAMPLE, "by": by})
    assert divided[by].iloc[request.forget].nunique() == 1
    assert divided[by].iloc[request.retain(divided)].nunique() > 0
    again = index(name, corpus.root if name != "fluent_speech_commands" else corpus.root.parent)
    assert again.table.equals(table)


@pytest.mark.parametrize("name", NAMES)
def test_roots_and_labels_that_do_not_fit_say_why(name: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.root=FOLDER"):
        index(name, None)
    with pytest.raises(UserError, match="is not a folder"):
        index(name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"set dataset.root|cannot be read|is not LibriSpeech"):
        index(name, tmp_path / "empty")
    with pytest.raises(UserError, match=f"dataset.label is 'word', which {name} does not know: there are "):
        index(name, make(name), "word")


@pytest.mark.parametrize("name", NAMES)
def test_missing_recordings_are_named_and_can_be_done_without(name: str, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make(name)
    whole = index(name, root)
    gone = whole.table["path"].iloc[[0, 3]]
    for path in gone:
        (whole.root / path).unlink()
    with pytest.raises(UserError, match=r"2 of \d+ (listed )?recordings are missing.*dataset.corpus.complete=false") as caught:
        index(name, root)
    text = str(caught.value)
    assert "\n" not in text
    assert Path(gone.iloc[0]).name in text if name != "crema_d" else "actor 1001 has 22 of 24" in text
    caplog.clear()
    rest = index(name, root, complete=False).table
    assert sorted(rest["id"]) == sorted(set(whole.table["id"]) - set(whole.table["id"].iloc[[0, 3]]))
    assert "2 of" in caplog.text
    assert "going on without them" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_a_renamed_recording_is_shown_beside_the_missing_one(name: str, make: Make) -> None:
    root = make(name)
    corpus = index(name, root)
    path = corpus.root / corpus.table["path"].iloc[0]
    path.rename(path.with_name(f"03-01-copy{path.suffix}"))
    with pytest.raises(UserError, match=r"1 of \d+ (listed )?recordings are missing") as caught:
        index(name, root)
    if name != "librispeech":
        assert f"03-01-copy{path.suffix}" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_recordings_that_no_list_names_are_left_out(name: str, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make(name)
    corpus = index(name, root)
    extra = (corpus.root / corpus.table["path"].iloc[0]).with_name("03-01-extra.wav")
    sound(extra)
    caplog.clear()
    assert index(name, root).table["id"].tolist() == corpus.table["id"].tolist()
    assert [record for record in caplog.records if record.levelno == logging.WARNING]


def test_voxceleb1_in_all_its_layouts(make: Make) -> None:
    root = make("voxceleb1")
    first = index("voxceleb1", root).table
    for number, (development, test) in enumerate((("vox1_dev_wav/wav", "vox1_test_wav/wav"), ("dev/wav", "test/wav"))):
        old = {speaker: next(root.glob(f"**/{speaker}")) for speaker in first["speaker"].unique()}
        for speaker, place in old.items():
            target = root / (test if speaker == "id10003" else development) / speaker
            target.parent.mkdir(parents=True, exist_ok=True)
            place.rename(target)
        table = index("voxceleb1", root).table
        assert table.drop(columns="path").equals(first.drop(columns="path"))
        assert table["path"].str.startswith(("vox1_", "dev/", "test/")).all(), number
    assert set(first["gender"]) == {"male", "female"}
    assert set(first["nationality"]) == {"Ireland", "New Zealand"}
    (root / "vox1_meta.csv").unlink()
    assert {"gender", "nationality"}.isdisjoint(index("voxceleb1", root).table.columns)


def test_voxceleb1_in_two_places_at_once_is_used_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("voxceleb1")
    sound(root / "dev" / "wav" / "id10000" / "-v_0deo" / "00001.wav")
    assert len(index("voxceleb1", root).table) == 80
    assert "1 recordings lie in two of the folders" in caplog.text


@needs_layout
def test_the_stand_in_of_voxceleb1(tmp_path: Path) -> None:
    corpus = index("voxceleb1", LAYOUT)
    assert corpus.table["subset"].value_counts().to_dict() == {"train": 144, "validation": 48, "test": 48}
    assert corpus.table["speaker"].nunique() == 12
    divided = split(decode(corpus, tmp_path, 16000).table, "speaker", holdout=0.2)
    assert divided["subset"].value_counts().to_dict() == {"train": 115, "holdout": 29, "validation": 48, "test": 48}
    request = select(divided, {**SAMPLE, "by": "video"})
    assert divided["video"].iloc[request.forget].nunique() == 1


def doubled(name: str, root: Path) -> tuple[Path, str, str]:
    """A list of the corpus, a line of it, and the same line with something else in it."""
    if name == "voxceleb1":
        path = root / "iden_split.txt"
        line = path.read_text().splitlines()[0]
        return path, line, f"3{line[1:]}"
    path = root / "fluent_speech_commands_dataset" / "data" / "train_data.csv"
    line = path.read_text().splitlines()[1]
    return path, line, line.replace("change language", "activate")


@pytest.mark.parametrize("name", ["voxceleb1", "fluent_speech_commands"])
def test_doubled_lines_count_once_and_contradictory_lines_are_refused(name: str, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make(name)
    count = len(index(name, root).table)
    path, line, other = doubled(name, root)
    good = path.read_text().rstrip("\n")
    path.write_text(f"{good}\n{line}\n")
    assert len(index(name, root).table) == count
    assert "1 recordings more than once" in caplog.text
    path.write_text(f"{good}\n{other}\n")
    with pytest.raises(UserError, match=r"contradict themselves about 1 file: .* is listed with (subset|action) '.*' and with"):
        index(name, root, complete=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 id10000/a/00001.wav\n4 id10000/a/00002.wav\n", "Line 2 of .* is '4 id10000"),
        ("1 id10000/00001.wav\n", "Line 1"),
        ("\n", "is empty"),
        ("1 id1/a/1.wav\n2 id1/a/2.wav\n", "not one of 2 listed recordings is there .*80 other sound files"),
    ],
)
def test_lists_of_voxceleb1_without_sense_say_why(make: Make, text: str, words: str) -> None:
    root = make("voxceleb1")
    (root / "iden_split.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        index("voxceleb1", root)


def test_librispeech_tests_whole_chapters_and_trains_on_every_speaker(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = make("librispeech")
    tables = [index("librispeech", root, test=test, seed=seed).table for test in (0.1, 0.2, 0.5, 0.9) for seed in (0, 1)]
    for table, test in zip(tables, (0.1, 0.1, 0.2, 0.2, 0.5, 0.5, 0.9, 0.9), strict=True):
        assert (table.groupby(["speaker", "chapter"])["subset"].nunique() == 1).all()
        assert set(table.loc[table["subset"] == "", "speaker"]) == set(table["speaker"])
        assert not (table.loc[table["speaker"] == "10", "subset"] == "test").any()
        assert abs((table["subset"] == "test").mean() - test) < (0.05 if test < 0.6 else 0.2)
    assert not tables[0].equals(tables[1])
    assert "1 speakers have a single chapter" in caplog.text
    assert set(tables[0].groupby("speaker")["gender"].first()) == {"female", "male"}
    by_gender = index("librispeech", root, "gender").table
    assert (by_gender.groupby("speaker")["subset"].nunique() == 1).all()


def test_librispeech_that_lacks_speakers_chapters_or_files(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("librispeech")
    top = root / "LibriSpeech" / "train-clean-100"
    (top / "12").rename(root / "12")
    with pytest.raises(UserError, match="22 of 114 recordings are missing: speaker 12 has none"):
        index("librispeech", root)
    (root / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    with pytest.raises(UserError, match=r"22 of 114 recordings are missing\. To mend it: fetch"):
        index("librispeech", root)
    assert "gender" not in index("librispeech", root, complete=False).table
    assert "has 5 speakers, 6 are published" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsets": ["train-clean-10"]}, "train-clean-10 .*did you mean 'train-clean-100'"),
        ({"subsets": "train-clean-100"}, "give a list"),
        ({"test": 0}, "between 0 and 1"),
        ({"test": 0.001}, "no chapter can test"),
    ],
)
def test_librispeech_options_without_sense_say_why(make: Make, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        index("librispeech", make("librispeech"), **options)


def test_librispeech_is_fetched_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speechforget.store.looking import NotMadeError, looking
    from speechforget.torchaudio import torchaudio

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchaudio.datasets, "LIBRISPEECH", unreachable)
    with pytest.raises(UserError, match=r"no route to host.*openslr"):
        index("librispeech", tmp_path / "new", download=True)
    with looking(), pytest.raises(NotMadeError):
        index("librispeech", tmp_path / "new", download=True)
    monkeypatch.setattr(torchaudio.datasets, "LIBRISPEECH", lambda root, url, download: make_librispeech(Path(root)))
    assert len(index("librispeech", tmp_path / "new", download=True).table) == 114


def test_fluent_speech_commands_intents_and_speakers(make: Make) -> None:
    root = make("fluent_speech_commands")
    table = index("fluent_speech_commands", root).table
    assert set(table["intent"]) == {"change language-none-none", "activate-lights-kitchen"}
    assert (table.groupby("speaker")["subset"].nunique() == 1).all()
    assert set(table["first_language"]) == {"English (Canada)"}
    assert set(table["fluency"]) == {"native"}
    with pytest.raises(UserError, match="keep speakers apart"):
        index("fluent_speech_commands", root, "speaker")
    data = root / "fluent_speech_commands_dataset" / "data"
    (data / "speaker_demographics.csv").unlink()
    assert "gender" not in index("fluent_speech_commands", root).table
    (data / "test_data.csv").write_text("path,speaker\n")
    with pytest.raises(UserError, match="no column 'speakerId'"):
        index("fluent_speech_commands", root)
    (data / "test_data.csv").unlink()
    with pytest.raises(UserError, match=r"test_data.csv cannot be read"):
        index("fluent_speech_commands", root)


def test_slurp_splits(make: Make) -> None:
    root = make("slurp")
    apart = index("slurp", root).table
    assert (apart.groupby("speaker")["subset"].nunique() == 1).all()
    assert set(apart["subset"]) == {"train", "validation", "test"}
    about = apart.groupby("speaker")[["gender", "native"]].first()
    assert about.loc["FE-101"].tolist() == ["female", "native"]
    assert about.loc["MO-102"].tolist() == ["male", "non-native"]
    assert about.loc["UNK-103"].tolist() == ["", ""]
    official = index("slurp", root, split="official").table
    assert official["subset"].value_counts().to_dict() == {"train": 64, "validation": 64, "test": 64}
    assert len(index("slurp", root, "speaker", split="official").table) == 192
    assert set(index("slurp", root, microphone="headset").table["microphone"]) == {"headset"}
    more = index("slurp", root, synthetic=True).table
    assert len(more) == 256
    assert set(more.loc[more["id"].str.startswith("slurp_synth/"), "subset"]) == {"train"}


def test_slurp_recordings_that_the_lists_disagree_about_are_left_out(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("slurp")
    place = root / "dataset" / "slurp"
    entries = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    missing = {"file": "audio-1434527177-headset.flac"}
    again = [
        {**entries[0], "recordings": [*entries[0]["recordings"][:1], missing]},
        {**entries[0], "intent": "other", "recordings": entries[0]["recordings"][1:3]},
    ]
    (place / "train.jsonl").write_text("\n".join(json.dumps(entry) for entry in [*entries, *again]))
    assert len(index("slurp", root).table) == 190
    assert "2 recordings are listed under different intents and are left out" in caplog.text
    assert "no list" not in caplog.text
    (place / "devel.jsonl").write_text((place / "devel.jsonl").read_text() + "\n" + json.dumps({**entries[2], "slurp_id": 0}))
    assert len(index("slurp", root, split="official").table) == 182
    assert len(index("slurp", root).table) == 190


def test_slurp_without_speakers(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = make("slurp")
    place = root / "dataset" / "slurp" / "metadata.json"
    metadata = json.loads(place.read_text())
    for file in list(metadata["1"]["recordings"])[:2]:
        del metadata["1"]["recordings"][file]
    metadata["2"]["recordings"] = [{"file": file, **about} for file, about in metadata["2"]["recordings"].items()]
    place.write_text(json.dumps(metadata))
    assert len(index("slurp", root).table) == 190
    assert "2 recordings of unknown speakers are left out" in caplog.text
    assert len(index("slurp", root, split="official").table) == 192
    place.write_text("[1]")
    with pytest.raises(UserError, match=r"metadata.json cannot be read"):
        index("slurp", root)
    place.unlink()
    with pytest.raises(UserError, match=r"needs the speakers in .*official"):
        index("slurp", root)
    assert set(index("slurp", root, split="official").table["speaker"]) == {""}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "random"}, "speaker or official"),
        ({"microphone": "near"}, "headset or distant"),
        ({"test": 0.5, "validation": 0.5}, "something to train on"),
        ({"label": "speaker"}, "keeps speakers apart"),
        ({"label": "speaker", "split": "official", "complete": True, "test": 5}, None),
    ],
)
def test_slurp_options_without_sense_say_why(make: Make, options: dict[str, Any], words: str | None) -> None:
    root = make("slurp")
    if words is None:
        assert len(index("slurp", root, **options).table) == 192
        return
    with pytest.raises(UserError, match=words):
        index("slurp", root, **options)


def test_lines_of_slurp_that_are_no_entries(make: Make) -> None:
    root = make("slurp")
    path = root / "dataset" / "slurp" / "test.jsonl"
    for text, words in (('{"intent": "a"}', "Line 1 of .* is no entry"), ("{", "cannot be read")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            index("slurp", root)


@pytest.mark.parametrize("name", ["crema_d", "ravdess"])
def test_emotions_are_tested_on_unheard_speakers_and_speakers_on_unheard_recordings(name: str, make: Make) -> None:
    root = make(name)
    emotion = index(name, root).table
    assert (emotion.groupby("speaker")["subset"].nunique() == 1).all()
    assert emotion.loc[emotion["subset"] == "test", "speaker"].nunique() == 1
    speaker = index(name, root, "speaker").table
    shares = speaker.groupby("speaker")["subset"].apply(lambda subsets: (subsets == "test").mean())
    assert (shares - 0.2).abs().max() < 0.05
    assert len({tuple(index(name, root, seed=seed).table["subset"]) for seed in range(8)}) > 1
    with pytest.raises(UserError, match="between 0 and 1"):
        index(name, root, test=1)


def test_crema_d_knows_the_slips_of_its_corpus(make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = make("crema_d")
    table = index("crema_d", root).table.set_index("id")
    assert table.at["AudioWAV/1005_MTI_SAD_X.wav", "level"] == "unspecified"
    assert table.at["AudioWAV/1001_DFA_ANG_HI.wav", "gender"] == "female"
    assert set(table["emotion"]) == {"anger", "happy", "neutral", "sad"}
    monkeypatch.setattr(crema_d, "EMPTY", "1002_MTI_SAD_XX.wav")
    assert len(index("crema_d", root).table) == 119
    assert "published without sound" in caplog.text
    (root / "VideoDemographics.csv").write_text("ActorID,Age\n")
    with pytest.raises(UserError, match=r"VideoDemographics.csv cannot be read"):
        index("crema_d", root)
    (root / "VideoDemographics.csv").unlink()
    assert "gender" not in index("crema_d", root).table


def test_ravdess_in_the_archives_folder_and_beside_a_copy_of_itself(make: Make, tmp_path: Path) -> None:
    root = make("ravdess")
    table = index("ravdess", root).table
    assert table.groupby("speaker")["gender"].first().to_dict() == {"01": "male", "02": "female", "03": "male"}
    assert table["emotion"].value_counts().to_dict() == {**dict.fromkeys(ravdess.EMOTIONS, 24), "neutral": 12}
    (tmp_path / "top").mkdir()
    root.rename(tmp_path / "top" / "audio_speech_actors_01-24")
    assert index("ravdess", tmp_path / "top").table.equals(table)


def test_what_is_published_agrees_with_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert len(ravdess._published()) == 1440
    assert len(crema_d.USUAL) == 91
    assert sum(crema_d.USUAL.values()) == crema_d.PUBLISHED + 20
    assert librispeech.PUBLISHED["train-clean-100"] == (28539, 251)


paths = st.lists(st.sampled_from([f"{speaker}/{number}.wav" for speaker in "abc" for number in range(4)]), unique=True)


@given(listed=paths, found=paths)
def test_what_is_missing_is_what_is_listed_and_not_there(listed: list[str], found: list[str]) -> None:
    table = pd.DataFrame({"path": listed, "speaker": [path[0] for path in listed]}, dtype=str)
    missing = set(listed) - set(found)
    if listed and len(missing) == len(listed):
        with pytest.raises(UserError, match="not one of"):
            check_listed("corpus", table, found, complete=False, fix="unpack it")
        return
    assert set(check_listed("corpus", table, found, complete=False, fix="unpack it")["path"]) == set(listed) & set(found)
    if missing:
        with pytest.raises(UserError, match=f"{len(missing)} of {len(listed)} listed recordings are missing"):
            check_listed("corpus", table, found, complete=True, fix="unpack it")
    counts = {speaker: sum(path[0] == speaker for path in found) for speaker in "abc"}
    if len(found) < 12:
        with pytest.raises(UserError, match=f"{12 - len(found)} of 12 recordings are missing: (speaker . has (none|. of 4)(, )?)+"):
            check_counts("corpus", counts, dict.fromkeys("abc", 4), 12, complete=True, fix="unpack it")


def test_many_missing_recordings_are_summed_up() -> None:
    table = pd.DataFrame([{"path": f"{speaker:02}/{number}.wav", "speaker": f"{speaker:02}"} for speaker in range(30) for number in range(60)])
    found = table["path"][~table["speaker"].isin([f"{speaker:02}" for speaker in range(10, 20)])].iloc[3:]
    with pytest.raises(UserError) as caught:
        check_listed("corpus", table, list(found), complete=True, fix="unpack it again")
    assert str(caught.value) == (
        "corpus: 603 of 1,800 listed recordings are missing (00/0.wav, 00/1.wav, 00/2.wav, ...): speaker 10 has none, speaker 11 has none, "
        "speaker 12 has none, and 8 more lack some. To mend it: unpack it again, or set dataset.corpus.complete=false to go on without them."
    )


def test_more_recordings_than_published_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    check_counts("corpus", {"a": 5}, {"a": 4}, 4, complete=True, fix="unpack it")
    assert "5 recordings are there, and 4 are published" in caplog.text


def test_lines_that_say_the_same_are_kept_once() -> None:
    lines = pd.DataFrame({"path": ["b", "a", "b"], "subset": ["train", "test", "train"]})
    assert check_lines("corpus", lines, "the lists")["path"].tolist() == ["b", "a"]


@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    test=st.floats(0.01, 0.5),
    validation=st.floats(0, 0.4),
    seed=st.integers(0, 100),
)
def test_speakers_are_kept_apart_in_shares(counts: list[int], test: float, validation: float, seed: int) -> None:
    speakers = pd.Series([f"s{number}" for number, count in enumerate(counts) for _ in range(count)])
    shares = {"test": test, "validation": validation, "train": 1 - test - validation}
    subset = speakers_apart(speakers, shares, seed)
    assert (subset.groupby(speakers).nunique() == 1).all()
    assert set(subset) == {name for name, share in shares.items() if share > 0}
    assert subset.equals(speakers_apart(speakers, shares, seed))
    longest = max(counts) / sum(counts)
    if len(counts) * min(share for share in shares.values() if share > 0) > 3 and longest < 0.1:
        assert all(abs((subset == name).mean() - share) <= longest + 1e-9 for name, share in shares.items())
    shuffled = speakers.sample(frac=1, random_state=0)
    assert subset.equals(speakers_apart(shuffled, shares, seed).sort_index())


def test_too_few_speakers_to_keep_apart() -> None:
    table = pd.DataFrame({"id": ["a", "b"], "speaker": ["s", "s"], "emotion": ["x", "y"]})
    with pytest.raises(UserError, match="1 speaker"):
        test_subset(table, "emotion", 0.2, "emotion", 0)


def test_the_unit_of_copies_is_the_smallest_id_among_them() -> None:
    drawn = np.random.default_rng(0)
    ids = [f"{word}/{number}" for number, word in enumerate(drawn.choice(["yes", "no", "\u00e9t\u00e9"], 300))]
    table = pd.DataFrame({"id": ids, "word": [identity.partition("/")[0] for identity in ids], "sha1": drawn.choice(100, 300).astype(str)})
    table["subset"] = np.where(drawn.random(300) < 0.1, "test", "")
    divided = split(table, "word")
    assert divided["unit"].tolist() == divided["sha1"].map({sha1: min(copies) for sha1, copies in table.groupby("sha1")["id"]}).tolist()


def stand_in(root: Path, speakers: int, videos: int, files: int) -> float:
    """VoxCeleb1's layout with empty files; returns the processor seconds it took to index, list for decoding, key, split and ask."""
    lines = []
    for speaker in range(speakers):
        for video in range(videos):
            name = f"id{10001 + speaker}/{video:02}deo-{speaker:04}"
            (root / "wav" / name).mkdir(parents=True)
            for number in range(files):
                os.close(os.open(root / "wav" / name / f"{number + 1:05}.wav", os.O_CREAT))
                lines.append(f"{3 if video == 0 else 2 if video == 1 else 1} {name}/{number + 1:05}.wav\n")
    (root / "iden_split.txt").write_text("".join(lines))
    start = time.process_time()  # cores may be shared
    corpus = index("voxceleb1", root)
    assert len(corpus.table) == len(lines)
    sounds, _, _ = _sounds(corpus)
    assert _key(corpus, sounds, 16000)
    divided = split(corpus.table.assign(sha1=corpus.table["id"]), "speaker")
    assert len(select(divided, {**SAMPLE, "by": "random"}).forget)
    return time.process_time() - start


def test_fifteen_thousand_recordings_are_indexed_in_seconds(tmp_path: Path) -> None:
    assert stand_in(tmp_path, 125, 12, 10) < 10


@pytest.mark.slow
def test_as_many_recordings_as_voxceleb1_has_are_indexed_in_seconds(tmp_path: Path) -> None:
    assert stand_in(tmp_path, 1251, 15, 8) < 20  # 150,120 in 6 s where this was written
