"""The user's own recordings: folders, manifests, and other files beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechforget.data.audio.cache import decode
from speechforget.data.corpora.folder import index
from speechforget.data.split import split
from speechforget.errors import UserError

BROKEN = Path(__file__).parents[3] / "shared" / "data" / "broken"


def tree(root: Path, paths: list[str], rate: int = 8000, channels: int = 2) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        sound = np.sin(2 * np.pi * (200 + 10 * number) * np.arange(rate // 2) / rate) * 0.5
        soundfile.write(root / path, np.stack([sound] * channels, axis=1), rate)
    return root


PATHS = [
    f"{word}/s{speaker}_nohash_{take}.{suffix}"
    for word in ("yes", "no")
    for speaker in range(3)
    for take, suffix in enumerate(["mp3", "ogg", "wav", "flac"])
]


def test_folders_are_words_at_any_rate_and_format(tmp_path: Path) -> None:
    corpus = index(tree(tmp_path / "root", PATHS), "word", tmp_path)
    assert corpus.table["id"].tolist() == sorted(PATHS)
    assert set(corpus.table["word"]) == {"yes", "no"}
    audio = decode(corpus, tmp_path / "cache", 16000)
    assert ((audio.table["seconds"] - 0.5).abs() < 0.2).all()
    assert set(split(audio.table, "word")["subset"]) == {"train", "validation", "holdout", "test"}


def test_the_test_share_is_seeded_and_of_every_word(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", [f"{word}/{i}.wav" for word in "abc" for i in range(20)])
    tables = [index(root, "word", tmp_path, test=0.25, seed=seed).table for seed in (0, 0, 1)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert tables[0].groupby("word")["subset"].apply(lambda subsets: (subsets == "test").sum()).between(1, 10).all()


def test_windows_of_a_manifest_that_overlap_go_one_way_or_are_refused_by_line(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.wav", "b.wav"])
    lines = [f"a.wav,{start},0.5,w{start % 2}" for start in range(20)] + [
        f"b.wav,{start},1.5,w{start % 2}" for start in range(4)
    ]
    (root / "manifest.csv").write_text("\n".join(["path,start,seconds,word", *lines]))
    for seed in range(5):
        table = index(root, "word", tmp_path, seed=seed).table
        assert table.loc[table["path"] == "b.wav", "subset"].nunique() == 1
        assert table.loc[table["path"] == "a.wav", "subset"].nunique() == 2

    def write() -> None:
        rows = [f"{line},{subset}" for line, subset in zip(lines, told, strict=True)]
        (root / "manifest.csv").write_text("\n".join(["path,start,seconds,word,subset", *rows]))

    told = ["train"] * 20 + ["test", "", "train", "test"]
    write()
    with pytest.raises(
        UserError,
        match=r"Line 24 of .*'b.wav@2.000' \(2 s to 3.5 s, train\) and Line 25 .*\(3 s to 4.5 s, test\) overlap",
    ):
        index(root, "word", tmp_path)
    told[-1] = told[-2] = "test"
    write()
    assert set(index(root, "word", tmp_path).table.query("path == 'b.wav'")["subset"]) == {"test"}


def test_speakers_from_folders_or_file_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", PATHS)
    assert set(index(root, "speaker", tmp_path).table["speaker"]) == {"yes", "no"}
    table = index(root, "speaker", tmp_path, speaker_pattern="^(.+)_nohash_").table
    assert set(table["speaker"]) == {"s0", "s1", "s2"}
    assert set(table["word"]) == {"yes", "no"}


def manifest(root: Path, text: str, name: str = "manifest.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_manifest_gives_words_speakers_subsets_and_further_columns(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["x/1.wav", "x/2.wav", "y 3.wav", "not listed.wav"])
    rows = [
        "path\tword\tspeaker\tsubset\taccent",
        "x/1.wav\tyes\tNA\ttraining\tscots",
        "x/2.wav\tno\t007\tdev\t",
        "y 3.wav\tyes\t007\ttest\twelsh",
    ]
    table = index(manifest(root, "\n".join(rows), "list.tsv"), "word", tmp_path, manifest="list.tsv").table
    assert table["id"].tolist() == ["x/1.wav", "x/2.wav", "y 3.wav"]
    assert table["subset"].tolist() == ["train", "validation", "test"]
    assert table["speaker"].tolist() == ["NA", "007", "007"]
    assert table["accent"].tolist() == ["scots", "", "welsh"]


def test_a_manifest_can_name_windows(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["long.wav", "b.wav"])
    text = "path,word,start,seconds,subset\nlong.wav,yes,0.1,0.2,\nlong.wav,no,0.3,,\nb.wav,no,,,test\n"
    audio = decode(index(manifest(root, text), "word", tmp_path), tmp_path / "cache", 8000)
    assert dict(zip(audio.table["id"], audio.table["seconds"], strict=True)) == {
        "b.wav@0.000": 0.5,
        "long.wav@0.100": 0.2,
        "long.wav@0.300": 0.2,
    }


def test_a_window_may_pass_the_end_of_its_file_by_rounding_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.wav", "b.wav"])
    audio = decode(
        index(manifest(root, "path,word,start,end\na.wav,yes,0.2,0.51\nb.wav,no,0,0.3\n"), "word", tmp_path),
        tmp_path / "cache",
        8000,
    )
    np.testing.assert_allclose(audio.table["seconds"], [0.3, 0.3])
    with pytest.raises(UserError, match=r"a.wav@0.200: shorter \(0.5 s\) than its window, 0.2 s to 0.52 s"):
        decode(
            index(manifest(root, "path,word,start,end\na.wav,yes,0.2,0.52\nb.wav,no,0,0.3\n"), "word", tmp_path),
            tmp_path / "cache",
            8000,
        )


def test_a_table_without_the_label_is_no_manifest_unless_it_is_named(tmp_path: Path) -> None:
    root = manifest(tree(tmp_path / "root", PATHS), "path,kind\nyes/s0_nohash_0.mp3,good\n")
    assert len(index(root, "word", tmp_path).table) == len(PATHS)
    with pytest.raises(UserError, match="no column 'word'"):
        index(root, "word", tmp_path, manifest="manifest.csv")


def test_manifests_without_sense_say_why(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.wav"])
    for content, words in (
        (b"path,word\na.wav,yes\na.wav,no\n", "first 'a.wav': list each id once"),
        (b"path,word,subset\na.wav,yes,tset\n", "line 2: the subset 'tset' is unknown: did you mean 'test'"),
        (b"path,word,label\na.wav,yes,1\n", "the column name 'label' is reserved"),
        (b"path,word,start\na.wav,yes,soon\n", "line 2: start is 'soon'"),
        (b"path,word,start\na.wav,yes,-1\n", "line 2: start is '-1'"),
        (b"path,word\n,yes\n", "line 2: the path is empty"),
        (b"path,word\n\xe9.wav,yes\n", "UTF-8"),
        (b"", "cannot be read .it is empty"),
        (b"path,word\n", "no recordings"),
    ):
        (root / "list.csv").write_bytes(content)
        with pytest.raises(UserError, match=words) as caught:
            index(root, "word", tmp_path, manifest="list.csv")
        assert "\n" not in str(caught.value)


def test_listed_files_that_do_not_exist_are_bad_recordings(tmp_path: Path) -> None:
    root = manifest(tree(tmp_path / "root", ["a.wav"]), "path,word,subset\na.wav,yes,train\ngone.wav,no,test\n")
    with pytest.raises(UserError, match=r"gone.wav: cannot be read"):
        decode(index(root, "word", tmp_path), tmp_path / "cache", 8000)


def test_missing_empty_and_flat_folders_say_how_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.root=FOLDER"):
        index(None, "word", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        index(tmp_path / "nowhere", "word", tmp_path)
    with pytest.raises(UserError, match="no recordings in folders"):
        index(tree(tmp_path / "flat", ["a.wav"]), "word", tmp_path)
    for pattern, words in (("(", "not a regular expression"), ("a+", "no group")):
        with pytest.raises(UserError, match=words):
            index(tree(tmp_path / "root", PATHS), "word", tmp_path, speaker_pattern=pattern)
    with pytest.raises(UserError, match="share of test recordings"):
        index(tmp_path / "root", "word", tmp_path, test=0)


def test_names_that_no_list_can_hold_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["yes/a.wav"])
    for name, words in ((b"yes/\xff.wav", "not UTF-8"), (b"yes/a\nb.wav", "contains a line break")):
        path = bytes(root) + b"/" + name
        shutil.copy(root / "yes" / "a.wav", path)
        with pytest.raises(UserError, match=words):
            index(root, "word", tmp_path)
        Path(path.decode(errors="surrogateescape")).unlink()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path / "elsewhere", ["a.wav"])
    root = tree(tmp_path / "root", ["no/b.wav"])
    (root / "yes").symlink_to(tmp_path / "elsewhere")
    (root / "no" / "up").symlink_to(root)
    (root / "no" / "here").symlink_to(".")
    assert index(root, "word", tmp_path).table["id"].tolist() == ["no/b.wav", "yes/a.wav"]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    if not BROKEN.is_dir():
        pytest.skip("the folder of broken recordings is not here")
    root = tmp_path / "broken"
    shutil.copytree(BROKEN, root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    subprocess.run([sys.executable, root / "make_extras.py"], check=True)
    return root


def test_every_kind_of_broken_recording(broken: Path, tmp_path: Path) -> None:
    listed = pd.read_csv(BROKEN / "manifest.csv")
    bad = [path for path in listed.loc[listed["kind"] == "bad", "path"] if "/." not in path] + [
        "left/dangling.wav",
        "left/loop_file.wav",
    ]
    corpus = index(broken, "word", tmp_path)
    with pytest.raises(UserError) as caught:
        decode(corpus, tmp_path / "cache", 16000)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == sorted(bad)
    audio = decode(corpus, tmp_path / "cache", 16000, "skip")
    assert audio.table["id"].tolist() == sorted(listed.loc[listed["kind"] != "bad", "path"])
    lengths = audio.table.set_index("id")["samples"]
    assert lengths["no/forty_seconds.wav"] == 640000
    assert lengths["left/eight_khz.wav"] == lengths["no/stereo_44100.wav"] == 16000
    assert set(split(audio.table, "word")["label"]) == {"yes", "no", "left", "zoom in"}
