"""VoxCeleb1: its layouts, its lists, and its number of recordings."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.made_corpora import SAMPLE, MakeCorpus, index, sound

from speechforget.data.audio.cache import cache_key, decode, list_sounds
from speechforget.data.requests.select import select
from speechforget.data.split import split
from speechforget.errors import UserError

LAYOUT = Path(__file__).parents[3] / "shared" / "data" / "voxceleb1_layout"
needs_layout = pytest.mark.skipif(not LAYOUT.is_dir(), reason="the stand-in for VoxCeleb1 is not here")


def test_voxceleb1_in_all_its_layouts(make_corpus: MakeCorpus) -> None:
    root = make_corpus("voxceleb1")
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


def test_voxceleb1_in_two_places_at_once_is_used_once(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus("voxceleb1")
    sound(root / "dev" / "wav" / "id10000" / "-v_0deo" / "00001.wav")
    assert len(index("voxceleb1", root).table) == 80
    assert "1 recordings are in two of the folders" in caplog.text


@needs_layout
def test_the_stand_in_of_voxceleb1(tmp_path: Path) -> None:
    corpus = index("voxceleb1", LAYOUT)
    assert corpus.table["subset"].value_counts().to_dict() == {"train": 144, "validation": 48, "test": 48}
    assert corpus.table["speaker"].nunique() == 12
    divided = split(decode(corpus, tmp_path, 16000).table, "speaker", holdout=0.2)
    assert divided["subset"].value_counts().to_dict() == {"train": 117, "holdout": 27, "validation": 48, "test": 48}
    request = select(divided, {**SAMPLE, "by": "video"})
    assert divided["video"].iloc[request.forget].nunique() == 1


def test_lists_of_voxceleb1_without_sense_say_why(make_corpus: MakeCorpus) -> None:
    root = make_corpus("voxceleb1")
    for text, words in (
        ("1 id10000/a/00001.wav\n4 id10000/a/00002.wav\n", "Line 2 of .* is '4 id10000"),
        ("1 id10000/00001.wav\n", "Line 1"),
        ("\n", "is empty"),
        ("1 id1/a/1.wav\n2 id1/a/2.wav\n", "none of the 2 listed recordings exists .*80 other sound files"),
    ):
        (root / "iden_split.txt").write_text(text)
        with pytest.raises(UserError, match=words):
            index("voxceleb1", root)


def stand_in(root: Path, speakers: int, videos: int, files: int) -> float:
    """Make VoxCeleb1's layout of empty files; return the processor seconds to index, key, split and select."""
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
    sounds, _, _ = list_sounds(corpus)
    assert cache_key(corpus, sounds, 16000)
    divided = split(corpus.table.assign(sha1=corpus.table["id"]), "speaker")
    assert len(select(divided, {**SAMPLE, "by": "random"}).forget)
    return time.process_time() - start


def test_five_thousand_recordings_are_indexed_in_seconds(tmp_path: Path) -> None:
    assert stand_in(tmp_path, 50, 10, 10) < 5


@pytest.mark.slow
def test_as_many_recordings_as_voxceleb1_has_are_indexed_in_seconds(tmp_path: Path) -> None:
    assert stand_in(tmp_path, 1251, 15, 8) < 20  # 150,120 in 6 s where this was written
