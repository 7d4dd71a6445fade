"""SUPERB's keyword spotting on small copies of its archives, and lists of Speech Commands with missing files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechforget.data.audio.cache import decode
from speechforget.data.corpora import speech_commands
from speechforget.data.corpora import superb_keyword_spotting as superb
from speechforget.data.requests.select import select
from speechforget.data.split import split
from speechforget.errors import UserError

RATE = 8000
OTHERS = ("bed", "sheila")
SPEAKERS = {"train": ("a1", "b2", "c3"), "validation": ("d4",), "test": ("e5",)}
WORDS = (*superb.TEN_WORDS, *OTHERS)


def write(folder: Path, paths: Iterable[str], seconds: float, generator: np.random.Generator) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, generator.normal(0, 0.1, int(seconds * RATE)), RATE, format="WAV")


def make(top: Path) -> Path:
    """Make 12 words by 5 speakers, 3 recordings of noise; in the test archive 10 words, 3 unknown and 2 of silence."""
    trained, tested, generator = top / superb.TRAINED, top / superb.TESTED, np.random.default_rng(0)
    take = "{}/{}_nohash_0.wav"
    of = {
        subset: [take.format(word, speaker) for word in WORDS for speaker in speakers]
        for subset, speakers in SPEAKERS.items()
    }
    write(trained, [path for paths in of.values() for path in paths], 0.05, generator)
    write(trained, [f"_background_noise_/{name}.wav" for name in ("hum", "rain", "wind")], 12, generator)
    for subset, name in speech_commands.LISTS.items():
        (trained / name).write_text("".join(f"{path}\n" for path in of[subset]))
    write(tested, [take.format(word, "e5") for word in superb.TEN_WORDS], 0.05, generator)
    write(
        tested,
        [f"_unknown_/{name}" for name in ("bed_e5_nohash_0.wav", "sheila_e5_nohash_1.wav.wav", "f6_nohash_0.wav")],
        0.05,
        generator,
    )
    write(tested, ["_silence_/0.wav", "_silence_/1.wav"], 0.05, generator)
    return top


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("superb"))


def test_the_counts_are_those_of_superb(archives: Path, tmp_path: Path) -> None:
    """Training: words in no list, and noise; validation: its list; test: the archive, nothing of testing_list.txt."""
    corpus = superb.index(archives, "word", tmp_path, silence="files")
    counts = corpus.table.groupby("subset").size().to_dict()
    assert counts == {"train": 12 * 3 + 3, "validation": 12, "test": 10 + 3 + 2}
    assert set(corpus.table["word"]) == {*superb.TEN_WORDS, "unknown", "silence"}
    assert not corpus.table["id"].str.contains(f"{superb.TRAINED}/.*/e5_").any()
    silence = corpus.table[corpus.table["word"] == "silence"]
    assert silence.groupby("subset").size().to_dict() == {"train": 3, "test": 2}
    audio = decode(corpus, tmp_path, RATE)
    lengths = audio.table.loc[(audio.table["word"] == "silence") & (audio.table["subset"] == "train"), "seconds"]
    assert (lengths == 12).all()
    divided = split(audio.table, "word", holdout=0, copies="ignore")
    assert divided.groupby("subset").size().to_dict() == counts


def test_all_other_words_are_unknown_and_keep_what_was_spoken(archives: Path, tmp_path: Path) -> None:
    table = superb.index(archives, "word", tmp_path).table
    unknown = table[table["word"] == "unknown"]
    assert unknown.groupby("subset")["spoken"].apply(sorted).to_dict() == {
        "train": ["bed"] * 3 + ["sheila"] * 3,
        "validation": ["bed", "sheila"],
        "test": ["", "bed", "sheila"],
    }
    tested = unknown[unknown["subset"] == "test"].set_index("id")
    assert tested["speaker"].to_dict() == {
        f"{superb.TESTED}/_unknown_/{name}": speaker
        for name, speaker in {
            "bed_e5_nohash_0.wav": "e5",
            "sheila_e5_nohash_1.wav.wav": "e5",
            "f6_nohash_0.wav": "f6",
        }.items()
    }
    words = table[~table["word"].isin(["unknown", "silence"])]
    assert (words["spoken"] == words["word"]).all()


def test_silence_can_be_windows_of_training_and_validation(archives: Path, tmp_path: Path) -> None:
    table = superb.index(archives, "word", tmp_path, silence=0.5).table
    windows = table[(table["word"] == "silence") & (table["subset"] != "test")]
    assert windows.groupby("subset").size().to_dict() == {"train": 15, "validation": 5}
    assert windows["id"].str.fullmatch(rf"{superb.TRAINED}/_background_noise_/\w+\.wav@\d+\.\d{{3}}").all()
    again, other = (superb.index(archives, "word", tmp_path, silence=0.5, seed=seed).table for seed in (0, 1))
    assert again.equals(table)
    assert set(other["id"]) != set(table["id"])
    assert not (
        superb.index(archives, "word", tmp_path, silence=0).table.query("subset != 'test'")["word"] == "silence"
    ).any()


def test_the_folders_may_lie_anywhere(archives: Path, tmp_path: Path) -> None:
    """Beside each other the fingerprint is the same; in other folders the ids are."""
    home = superb.index(archives, "word", tmp_path)
    inside = superb.index(archives / superb.TRAINED, "word", tmp_path)
    named = superb.index(archives / superb.TRAINED, "word", tmp_path, test_root=archives / superb.TESTED)
    assert inside.table.equals(home.table) and named.table.equals(home.table)
    assert (home.table["path"] == home.table["id"].str.partition("@")[0]).all()
    shutil.copytree(archives / superb.TRAINED, tmp_path / "one" / "words")
    shutil.copytree(archives / superb.TESTED, tmp_path / "two" / "tests")
    apart = superb.index(tmp_path / "one" / "words", "word", tmp_path, test_root=tmp_path / "two" / "tests")
    assert apart.table["id"].tolist() == home.table["id"].tolist()
    first, second = (decode(each, tmp_path / str(number), RATE) for number, each in enumerate((home, apart)))
    assert first.table["sha1"].tolist() == second.table["sha1"].tolist()


def test_no_second_of_noise_is_in_two_subsets_or_on_both_sides_of_a_request(archives: Path, tmp_path: Path) -> None:
    """Twenty windows per stretch, many more than seconds; none is in the fifth that augmentation uses."""
    noise = speech_commands.noises(archives / superb.TRAINED)
    parts = {
        subset: speech_commands.silence_windows(archives / superb.TRAINED, noise, subset, count, 0)
        for subset, count in (("train", 180), ("validation", 60), ("test", 60))
    }
    assert {subset: len(part) for subset, part in parts.items()} == {"train": 180, "validation": 60, "test": 60}
    words = [
        {
            "id": f"{subset}{number}",
            "path": f"{subset}{number}",
            "start": 0.0,
            "seconds": 1.0,
            "subset": subset,
            "word": "go",
            "speaker": "",
        }
        for subset in parts
        for number in range(20)
    ]
    table = pd.concat([*parts.values(), pd.DataFrame(words)], ignore_index=True).sort_values("id", ignore_index=True)
    table["sha1"] = table["id"]
    assert table.loc[table["word"] == "silence", "start"].min() >= 0.2 * 12
    task = {"kind": "sample", "by": "random", "percent": 20, "balanced": True, "seed": 0}
    for seed in range(5):
        result = split(table, "word", 0, 0.3, "include", seed)
        request = select(result, {**task, "seed": seed})
        side = result["subset"].to_numpy(dtype=object)
        side[request.forget] = "forget"
        heard: dict[tuple[str, int], set[str]] = {}
        for path, start, subset in zip(result["path"], result["start"], side, strict=True):
            for millisecond in range(round(start * 1000), round(start * 1000) + 1000, 50):
                heard.setdefault((path, millisecond // 50), set()).add(subset)
        assert {len(subsets) for subsets in heard.values()} == {1}
        silence = result["label"].to_numpy() == "silence"
        assert set(side[silence]) == {"train", "validation", "test", "holdout", "forget"}
        counts = result["label"].iloc[request.forget].value_counts()
        assert abs(counts["silence"] - counts["go"]) <= 20  # classes take turns by utterances, to a stretch


@pytest.mark.parametrize("spelling", ["relative", "home", "linked", "linked archive", "elsewhere"])
def test_a_spelling_of_the_folders_changes_neither_fingerprint_nor_noise(
    archives: Path, tmp_path: Path, monkeypatch, spelling: str
) -> None:
    roots = {
        "relative": (archives.name, None),
        "home": (f"~/{archives.name}/{superb.TRAINED}", f"~/{archives.name}/{superb.TESTED}"),
        "linked": (tmp_path / "link", None),
        "linked archive": (tmp_path / "top", None),
        "elsewhere": (tmp_path / "top" / superb.TRAINED, tmp_path / "link" / superb.TESTED),
    }
    (tmp_path / "link").symlink_to(archives)
    (tmp_path / "top").mkdir()
    for number, archive in enumerate((superb.TRAINED, superb.TESTED)):
        (tmp_path / "top" / archive).symlink_to(archives / archive) if number else shutil.copytree(
            archives / archive, tmp_path / "top" / archive
        )
    monkeypatch.chdir(archives.parent)
    monkeypatch.setenv("HOME", str(archives.parent))
    root, test_root = roots[spelling]
    found = [
        decode(superb.index(place, "word", tmp_path, other, silence=0.5), tmp_path / "cache", RATE)
        for place, other in ((archives, None), (root, test_root))
    ]
    assert found[0].fingerprint == found[1].fingerprint
    for audio in found:
        silence = audio.table[(audio.table["word"] == "silence") & (audio.table["subset"] != "test")]
        assert len(silence) == 20 and set(silence["path"]) <= set(audio.noise["path"])


def test_archives_that_are_not_there_or_others_say_so(archives: Path, tmp_path: Path) -> None:
    cases = [
        ({"root": None}, r"dataset.root=FOLDER.*CC BY"),
        ({"root": tmp_path}, f"does not contain {superb.TRAINED}"),
        ({"root": archives, "test_root": tmp_path}, "has no folder _unknown_"),
        ({"root": archives, "label": "speaker"}, "keeps speakers apart"),
        ({"root": archives, "silence": 2}, "silence is 2"),
        ({"root": archives, "silence": "file"}, "silence is file"),
        ({"root": archives, "silence": True}, "silence is True"),
    ]
    for options, words in cases:
        with pytest.raises(UserError, match=words):
            superb.index(**{"label": "word", "cache": tmp_path, **options})
    shutil.copytree(archives / superb.TRAINED, tmp_path / superb.TRAINED)
    with pytest.raises(UserError, match=f"{superb.TESTED} is not"):
        superb.index(tmp_path, "word", tmp_path)
    shutil.copytree(archives / superb.TESTED, tmp_path / superb.TESTED)
    shutil.rmtree(tmp_path / superb.TESTED / "go")
    with pytest.raises(UserError, match="no test recordings of go"):
        superb.index(tmp_path, "word", tmp_path)
    write(tmp_path / superb.TRAINED, ["visual/a1_nohash_0.wav"], 0.05, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"not Speech Commands v0.01 but a later version \(it has 'visual'\)"):
        superb.index(tmp_path, "word", tmp_path)


def test_a_list_that_names_what_is_not_there_is_refused_or_gone_without(archives: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(archives / superb.TRAINED, tmp_path / superb.TRAINED)
    shutil.copytree(archives / superb.TESTED, tmp_path / superb.TESTED)
    for path in ("go/d4_nohash_0.wav", "bed/e5_nohash_0.wav"):
        (tmp_path / superb.TRAINED / path).unlink()
    missing = r"2 of 24 listed recordings are missing \(bed/e5_nohash_0.wav, go/d4_nohash_0.wav\).*complete=false"
    for index, root, options in (
        (superb.index, tmp_path, {}),
        (speech_commands.index, tmp_path / superb.TRAINED, {"classes": 35}),
    ):
        with pytest.raises(UserError, match=missing):
            index(root, "word", tmp_path, **options)
        with caplog.at_level(logging.WARNING):
            table = index(root, "word", tmp_path, complete=False, **options).table
        assert "2 of 24" in caplog.text
        assert not table["path"].str.endswith("go/d4_nohash_0.wav").any()
        caplog.clear()


def test_a_part_of_the_corpus_is_noted(archives: Path, tmp_path: Path, caplog, monkeypatch) -> None:
    with caplog.at_level(logging.INFO):
        superb.index(archives, "word", tmp_path)
    assert "63 recordings in the training archive here, 64727 in the whole corpus" in caplog.text
    assert "15 recordings in the test archive here, 3081 in the whole corpus" in caplog.text
    caplog.clear()
    monkeypatch.setattr(speech_commands, "PUBLISHED", 60)
    with caplog.at_level(logging.INFO):
        speech_commands.index(archives / superb.TRAINED, "word", tmp_path, classes=35)
    assert "whole corpus" not in caplog.text
