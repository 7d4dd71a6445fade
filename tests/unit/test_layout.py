"""Words, speakers, subsets and noise from folders; no recording is lost without a message."""

from __future__ import annotations

import logging
import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.data.audio.cache import decode
from speechforget.data.audio.formats import FOREIGN, SUFFIXES
from speechforget.data.corpora.base import Corpus, recordings
from speechforget.data.corpora.folder import index
from speechforget.errors import UserError

E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"
NFD = unicodedata.normalize("NFD", f"caf{E_ACUTE}")


@pytest.fixture(autouse=True)
def _all_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def files(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def labels(corpus: Corpus, label: str = "word") -> dict[str, str]:
    return dict(zip(corpus.table["path"], corpus.table[label], strict=True))


def test_one_line_says_what_was_read_and_what_was_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(
        tmp_path,
        "yes/1.wav",
        "no/anna/2.m4a",
        "no/3.SPH",
        "lost.wav",
        ".git/x",
        "yes/._1.wav",
        "yes/notes.txt",
        "_old/4.wav",
        "_background_noise_/hum.wav",
    )
    (root / "no" / "up").symlink_to(root)
    corpus = index(root, "word", tmp_path, speaker_pattern="([12])")
    assert corpus.noise == (root / "_background_noise_/hum.wav",)
    assert (
        "folder: read 3 of 10 files, 2 words: no, yes, 2 speakers (1 utterances have none), background noise: 1; "
        "ignored: "
        "1 in no folder, so without a label (lost.wav); "
        "1 in folders that begin with _ (dataset.corpus.folders=labels makes them labels) (_old/4.wav); "
        "1 not sound (yes/notes.txt); 2 hidden (.git/x, yes/._1.wav); 1 links to a folder above them (no/up)"
    ) in caplog.messages
    assert "1 recordings are in deeper folders below a word's; the names of these are not used" in caplog.text


LAYOUTS: list[tuple[list[str], str | None, str, str]] = [
    (
        ["train/yes/1.wav", "Test/yes/2.wav", "dev/no/3.wav"],
        None,
        "yes yes no",
        "the first folders (Test, dev, train) are subsets",
    ),
    (["train/1.wav", "test/2.wav"], "labels", "train test", ""),
    (["train/yes/1.wav", "car/yes/2.wav"], "labels", "train car", "deeper folders"),
    (["noise/1.wav", "yes/2.wav"], "labels", "noise yes", ""),
    (["_silence_/1.wav", "yes/2.wav"], "labels", "_silence_ yes", ""),
    (["yes /1.wav", "yes/2.wav"], None, "yes yes", "are normalised: 'yes '"),
    ([f"{NFD}/1.wav", f"caf{E_ACUTE}/2.wav"], None, f"caf{E_ACUTE} caf{E_ACUTE}", "are normalised"),
    (["Yes/1.wav", "yes/2.wav"], None, "Yes yes", "labels that differ only in case are different labels: Yes, yes"),
    (
        ["train/noise/1.wav", "train/yes/2.wav", "test/yes/3.wav"],
        None,
        "- yes yes",
        "train/noise is used as background noise, not as a word",
    ),
    (["Background Noise/1.wav", "yes/2.wav"], None, "- yes", "used as background noise"),
]


def test_folders_are_labels_subsets_or_noise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, (paths, folders, found, said) in enumerate(LAYOUTS):
        root = files(tmp_path / str(number), *paths)
        caplog.clear()
        corpus = index(root, "word", tmp_path, folders=folders)
        assert labels(corpus) == {path: label for path, label in zip(paths, found.split(), strict=True) if label != "-"}
        assert {path.relative_to(root).as_posix() for path in corpus.noise} == set(paths) - set(labels(corpus))
        assert said in caplog.text
        if "are subsets" in said:
            assert corpus.table["subset"].tolist() == ["test", "validation", "train"]


UNCLEAR: list[tuple[list[str], dict[str, str], str]] = [
    (["train/1.wav", "test/yes/2.wav"], {}, "'train' holds recordings outside of label folders.*folders=labels"),
    (["train/yes/1.wav", "yes/2.wav"], {}, r"names of subsets \(train\), but 'yes' has not"),
    (["go/1.wav"], {"yes": "nowhere"}, "yes is a link to nothing"),
    (["go/1.wav"], {"yes": "yes"}, "yes is a link to nothing"),
    (["go/1.wav"], {"no": "yes", "yes": "no"}, "no is a link to nothing"),
    (["go/1.wav"], {"yes": "."}, "yes is a link to a folder that contains it"),
    (
        ["1.wav", "_old/2.wav"],
        {},
        "no recordings in folders.*1 in no folder.*1 in folders that begin with _",
    ),
]


def test_what_folders_leave_open_is_refused(tmp_path: Path) -> None:
    for number, (paths, links, words) in enumerate(UNCLEAR):
        root = files(tmp_path / str(number), *paths)
        for name, target in links.items():
            (root / name).symlink_to(target)
        with pytest.raises(UserError, match=words):
            index(root, "word", tmp_path)
        with pytest.raises(UserError, match="choose labels or subsets"):
            index(root, "word", tmp_path, folders="words")


def test_choices_that_do_not_count_here_are_refused(tmp_path: Path) -> None:
    root = files(tmp_path, "go/1.wav", "stop/2.wav")
    with pytest.raises(
        UserError, match=r"folders is subsets, but no folder in .* has the name of a subset \(there are go, stop\)"
    ):
        index(root, "word", tmp_path, folders="subsets")
    with pytest.raises(UserError, match="manifest is true: give the name of the table"):
        index(root, "word", tmp_path, manifest=True)
    (root / "manifest.csv").write_text("path,word\ngo/1.wav,go\nstop/2.wav,stop\n")
    with pytest.raises(UserError, match=r"folders=labels has no effect beside the manifest .*manifest\.csv"):
        index(root, "word", tmp_path, folders="labels")


def test_recordings_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path) -> None:
    suffixes = FOREIGN.split()
    root = files(tmp_path / "root", "yes/1.wav", *(f"no/{number}{suffix}" for number, suffix in enumerate(suffixes)))
    (root / "yes" / "1.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    for path in (root / "no").iterdir():
        path.write_bytes(b"\0" * 64)
    (root / "yes" / "gone.wav").symlink_to("nowhere.wav")
    with pytest.raises(UserError) as caught:
        decode(index(root, "word", tmp_path), tmp_path / "cache", 8000)
    said = str(caught.value)
    assert "yes/1.wav: a git-lfs pointer instead of the file: fetch the file with 'git lfs pull'" in said
    assert "yes/gone.wav: cannot be read" in said
    assert sum(
        "a format that is not supported: convert it to .wav or .flac" in line for line in said.splitlines()
    ) == len(suffixes)


def test_all_that_libsndfile_reads_is_found_by_its_name(tmp_path: Path) -> None:
    names = ["1.wav", "2.FLAC", "3.ogg", "4.mp3", "5.aiff", "6.opus", "7.au", "8.caf", "9.w64", "x.sph"]
    assert recordings(files(tmp_path, *names, "y.m4a", "z.txt")) == sorted(names)
    assert not set(SUFFIXES) & set(FOREIGN.split())


PARTS = [
    "yes",
    "no",
    "yes ",
    "train",
    "test",
    "dev",
    "noise",
    "_background_noise_",
    "_x",
    ".h",
    NFD,
    f"caf{E_ACUTE}",
    "a\\b",
    "manifest.csv",
    "sub.wav",
]
NAMES = [
    "1.wav",
    "2.WAV",
    "3.m4a",
    "4.opus",
    "n.txt",
    ".x.wav",
    f"{NFD}.wav",
    f"caf{E_ACUTE}.wav",
    " 5.wav",
    "x",
    "6.mat",
    "metadata.csv",
]
FORMS: st.SearchStrategy[Literal["NFC", "NFD"]] = st.sampled_from(["NFC", "NFD"])
TREES = st.lists(
    st.tuples(st.lists(st.sampled_from(PARTS), max_size=3), st.sampled_from(NAMES)), min_size=1, max_size=12
)
LINKS = st.lists(
    st.tuples(st.sampled_from(["yes", "no", "l.wav", "deep"]), st.sampled_from(["..", ".", "yes", "nowhere", "l.wav"])),
    max_size=2,
)


def check_that_no_recording_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    tree: list[tuple[list[str], str]],
    links: list[tuple[str, str]],
    folders: str,
    by_list: bool,
    data: st.DataObject,
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzz" / "alone" / "root"  # a link to the folder above finds only this
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for parts, name in tree:
        folder = root.joinpath(*parts)
        blocked = any(above.is_file() or above.is_symlink() for above in (folder, *folder.parents))
        if not blocked and not (folder / name).is_dir():
            files(root, "/".join([*parts, name]))
    for name, target in links:
        if not os.path.lexists(root / name):
            (root / name).symlink_to(target)
    there = [path for path in root.rglob("*") if not path.is_dir()]
    written = _manifest(root, there, data) if by_list and not (root / "manifest.csv").exists() else None
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("speechforget.data.corpora.folder").addHandler(handler)
    try:
        corpus = index(root, "word", root, folders=folders)
    except UserError as error:
        assert len(str(error)) > 20 and "\n" not in str(error)  # refused as a whole, so nothing is lost
        return
    finally:
        logging.getLogger("speechforget.data.corpora.folder").removeHandler(handler)
    [line] = [line for line in lines if line.startswith("folder: read ")]
    read, of = map(int, re.findall(r"read (\d+) of (\d+) files", line)[0])
    noise = sum(map(int, re.findall(r"background noise: (\d+)", line)))
    ignored = sum(map(int, re.findall(r"(?:^|; )(\d+) ", line.partition("; ignored: ")[2])))
    paths = set(corpus.table["path"])
    assert read == len(paths) and noise == len(corpus.noise) and of == read + noise + ignored
    used = {root / path for path in paths} | set(corpus.noise)
    lost = [path for path in there if path not in used]
    # A file behind a link is counted twice.
    assert len(lost) <= ignored if links else len(lost) == ignored, (line, lost)
    if written is not None:
        assert len(corpus.table) == written
    assert not corpus.table["word"].map(lambda word: word != unicodedata.normalize("NFC", word).strip()).any()


FUZZ = given(TREES, LINKS, st.sampled_from([None, "labels", "subsets"]), st.booleans(), st.data())
test_every_recording_is_read_or_counted_as_ignored = settings(max_examples=40)(FUZZ(check_that_no_recording_is_lost))
test_every_recording_of_many_trees_is_read_or_counted_as_ignored = pytest.mark.nightly(
    settings(max_examples=1000)(FUZZ(check_that_no_recording_is_lost))
)


def _manifest(root: Path, there: list[Path], data: st.DataObject) -> int:
    """Write some of the files into a manifest, in one of the usual ways; return the number of its lines."""
    named = [
        path.relative_to(root).as_posix()
        for path in there
        if not path.is_symlink() and path.suffix.lower() in (".wav", ".m4a", ".opus")
    ]
    chosen = data.draw(st.lists(st.sampled_from(named), unique=True, min_size=1)) if named else []
    separator, form = data.draw(st.sampled_from([",", ";", "\t"])), data.draw(FORMS)
    head = data.draw(
        st.sampled_from(["path{}word", "Path{} Word", "path{}WORD ", '"path"{}"word"', "path{}text"])
    ).format(separator)
    word = data.draw(st.sampled_from(['"', "yes", " yes", '"yes"', '"a" b', f"{NFD} ", "yes\t"]))
    lines = [unicodedata.normalize(form, path) + separator + word for path in chosen]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    (root / f"manifest.{data.draw(st.sampled_from(['csv', 'tsv']))}").write_bytes(end.join([head, *lines]).encode())
    return len(chosen)
