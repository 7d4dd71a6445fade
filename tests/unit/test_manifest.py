"""Manifests and lists of ids: usual spellings are read with a note, others refused with the line, none read in part."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.data.corpora.folder import index
from speechforget.data.requests.ids import read_ids
from speechforget.data.tables.text import spelling
from speechforget.errors import UserError

Form = Literal["NFC", "NFD"]
E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """a.wav to d.wav of 0.5 s."""
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", np.sin(np.arange(4000)), 8000)
    return tmp_path


def read(
    root: Path, content: str | bytes, name: str = "manifest.csv", label: str = "word", **options: object
) -> pd.DataFrame:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return index(root, label, root / "cache", **options).table  # type: ignore[arg-type]


PLAIN = "path,word\na.wav,yes\nb.wav,no\nc.wav,yes\nd.wav,no\n"


USUAL: list[tuple[str | bytes, str, str]] = [
    (PLAIN, "manifest.csv", ""),
    (PLAIN, "Manifest.CSV", ""),
    (PLAIN.replace(",", ";"), "manifest.csv", "separated by semicolons"),
    ("sep=;\n" + PLAIN.replace(",", ";"), "manifest.csv", "separated by semicolons"),
    (PLAIN.replace(",", "\t"), "manifest.csv", "separated by tabs"),
    (PLAIN, "manifest.tsv", "separated by commas"),
    (PLAIN.replace("path,word", "Path, Word "), "manifest.csv", "column 'Path' is read as 'path'"),
    (PLAIN.replace("yes\n", "yes \n", 1), "manifest.csv", "normalised in 1 words"),
    (PLAIN.replace("yes\n", "\u00a0yes\u200b\n", 1), "manifest.csv", "normalised in 1 words"),
    (PLAIN.replace("\n", "\r\n"), "manifest.csv", ""),
    (PLAIN.replace("\n", "\r"), "manifest.csv", ""),
    (PLAIN.replace("\n", "\n\n"), "manifest.csv", ""),
    (PLAIN.replace("\n", ",,\n") + ",,,\n", "manifest.csv", ""),  # as spreadsheets save empty cells
    ("\ufeff" + PLAIN, "manifest.csv", ""),
    (PLAIN.encode("utf-16"), "manifest.csv", ""),
    (
        PLAIN.replace("a.wav", "./a.wav").replace("b.wav", ".\\b.wav ").replace("c.wav", '"c.wav"'),
        "manifest.csv",
        "",
    ),
    ('"' + PLAIN.strip().replace(",", '"\t"').replace("\n", '"\n"') + '"', "manifest.tsv", ""),
]


def test_the_usual_ways_to_write_a_table_give_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = read(root, PLAIN, "plain.csv", manifest="plain.csv").drop(columns="subset")
    words = {"a.wav": "yes", "b.wav": "no", "c.wav": "yes", "d.wav": "no"}
    for content, name, said in USUAL:
        caplog.clear()
        found = read(root, content, name)
        (root / name).unlink()
        assert found.drop(columns="subset").equals(plain), content
        assert dict(zip(found["path"], found["word"], strict=True)) == words, content
        assert said in caplog.text, content


def test_a_quotation_mark_in_a_tsv_is_a_sign_like_any_other(root: Path) -> None:
    texts = ['"it begins with one', 'ends with one"', 'one "inside" it', '"']
    lines = [
        f"{name}.wav\tw{number % 2}\t{text}" for number, (name, text) in enumerate(zip("abcd", texts, strict=True))
    ]
    assert read(root, "\n".join(["path\tword\tsentence", *lines]), "manifest.tsv")["sentence"].tolist() == texts


REFUSED = [
    ("path,word\na.wav,yes,1,2\n", "line 2: the line has 4 fields, but line 1 has 2 column names"),
    ("path,word\n\na.wav\n", "line 3: the line has 1 field, but line 1 has 2 column names"),
    ('path,word,text\na.wav,yes,"begins\nb.wav,no,ends"\n', "line 2: a quotation mark does not end a field"),
    ('path,word\na.wav,"yes" no\n', "line 2: a quotation mark does not end a field"),
    ('path,word\na.wav, "yes"\n', "line 2: there is a space before a quotation mark"),
    ("path,word,word\na.wav,yes,no\n", "line 1: two columns are called 'word'"),
    ("path,Word,WORD\na.wav,yes,no\n", "more than one column 'word'"),
    ("path,,word\na.wav,1,no\n", "line 1: column 2 has no name"),
    ("path,word\na.wav,y\0es\n", "zero bytes"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs pointer"),
    ("file,word\na.wav,yes\n", "no column 'path': there are file, word"),
    ("path,wort,speaker\na.wav,yes,anna\n", "no column 'word': did you mean 'wort'"),
    ("path;keyword\na.wav;yes\n", "manifest=false"),
    ("path,label\na.wav,yes\n", "name 'label' is reserved for the program: rename the column, for example to 'word'"),
    ("path,word,id\na.wav,yes,\n", "line 2: the id is empty"),
    # windows
    ("path,word,start,stop\na.wav,yes,0.2,0.1\n", "line 2 .a.wav.: the window ends at or before its start"),
    ("path,word,start,end\na.wav,yes,0.2,0.2\n", "line 2 .a.wav.: the window ends at or before its start"),
    ("path,word,start,seconds\na.wav,yes,0.2,0\n", "line 2 .a.wav.: the window has no length"),
    (
        "path,word,start,end,duration\na.wav,yes,0.1,0.3,0.3\n",
        "line 2 .a.wav.: the end contradicts the start and the length",
    ),
    ("path,word,start,begin\na.wav,yes,0.1,0.1\n", "'start' and 'begin' both give the start"),
    ("path,word,start,start_ms\na.wav,yes,0.1,100\n", "'start' and 'start_ms' both give the start"),
    ("path,word,start_sample,end_sample\na.wav,yes,0,100\n", "'start_sample' is not in seconds or milliseconds"),
    ("path,word,frame_offset,num_frames\na.wav,yes,0,100\n", "'frame_offset' is not in seconds or milliseconds"),
    ("path,word,start,length\na.wav,yes,0,100\n", "the unit of the column 'length' is unknown, or not seconds"),
    ("path,word,start,length_frames\na.wav,yes,0,100\n", "the unit of the column 'length_frames' is unknown"),
    ("path,word,offset\na.wav,yes,0.1\n", "'offset' may be a start or an end"),
    ("path,word,start,end\na.wav,yes,00:01,00:02\n", "line 2: start is '00:01'"),
    ("path;word;start;end\na.wav;yes;0,1;0,2\n", "line 2: start is '0,1'"),
    ("path,word,start,end\na.wav,yes,0,inf\n", "line 2: end is 'inf'"),
    ("path,word,start\na.wav,yes,0\na.wav,no,0.2\n", "line 3 .a.wav.: an earlier window of this file has no end"),
    ("path,word,duration\na.wav,yes,0.5\nb.wav,no,0.2\n", "line 3: duration is 0.2, but b.wav lasts 0.500 s"),
]


def test_what_cannot_be_understood_is_refused_by_line(root: Path) -> None:
    for content, words in REFUSED:
        with pytest.raises(UserError, match=words) as caught:
            read(root, content)
            pytest.fail(f"read as if it were right: {content!r}")
        assert "\n" not in str(caught.value)


WINDOW = [("a.wav", 0.1, 0.2), ("a.wav", 0.3, 0.2), ("b.wav", 0.0, 0.25)]


SPELLINGS = [
    ("start,seconds", 1, False),
    ("Start,Duration", 1, False),
    ("offset,duration", 1, False),
    ("start,end", 1, True),
    ("begin,stop", 1, True),
    ("onset,offset", 1, True),
    ("start_time,end_time", 1, True),
    ("start (s),end (s)", 1, True),
    ("StartSec,EndSec", 1, True),
    ("xmin,xmax", 1, True),
    ("t0,t1", 1, True),
    ("start_ms,end_ms", 1000, True),
    ("start_in_ms,length_ms", 1000, False),
]


def test_windows_in_the_spellings_of_other_programs(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = "read 2 of 4 files (3 utterances), 2 words: w0, w1; ignored: 2 not in the manifest (c.wav, d.wav)"
    for columns, scale, ends in SPELLINGS:
        lines = [
            f"{path},w{number % 2},{start * scale:g},{(start * ends + length) * scale:g}"
            for number, (path, start, length) in enumerate(WINDOW)
        ]
        caplog.clear()
        table = read(root, "\n".join([f"path,word,{columns}", *lines]))
        assert table["id"].tolist() == ["a.wav@0.100", "a.wav@0.300", "b.wav@0.000"], columns
        np.testing.assert_allclose(table[["start", "seconds"]], [window[1:] for window in WINDOW], atol=1e-9)
        assert not set(columns.split(",")) & set(table) - {"start", "seconds"}, columns
        assert counts in caplog.text, columns


def test_an_end_alone_is_a_window_from_the_beginning_and_a_duration_alone_is_the_files(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read(root, "path,word,end\na.wav,yes,0.2\nb.wav,no,\n")
    assert (
        table["seconds"].tolist()[:1] == [0.2]
        and np.isnan(table["seconds"].iloc[1])
        and table["id"].tolist() == ["a.wav", "b.wav"]
    )
    table = read(root, "path,word,duration\na.wav,yes,0.50\nb.wav,no,0.51\n")
    assert (
        "seconds" not in table
        and table["duration"].tolist() == ["0.50", "0.51"]
        and "the length of each file" in caplog.text
    )


def test_subsets_further_columns_and_what_the_label_is_asked_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "path,word,Split,accent\na.wav,yes,train,\nb.wav,no,train,scots\nc.wav,yes,dev,\nd.wav,no,TEST,\n"
    table = read(root, text)
    assert table["subset"].tolist() == ["train", "train", "validation", "test"]
    assert (
        "'Split' is read as 'subset'" in caplog.text and "other columns are kept as attributes: accent" in caplog.text
    )
    with pytest.raises(
        UserError, match=r"no column 'acent': did you mean 'accent'\? There are Split, accent, path, word"
    ):
        read(root, text, label="acent")
    (root / "yes").mkdir()
    (root / "a.wav").rename(root / "yes" / "a.wav")
    assert read(root, text, manifest=False)["path"].tolist() == ["yes/a.wav"]
    (root / "manifest.tsv").touch()
    with pytest.raises(UserError, match=r"manifest.csv and manifest.tsv: keep one"):
        read(root, text)
    (root / "manifest.tsv").unlink()
    (root / "manifest.csv").rename(root / "manifest.jsonl")
    with pytest.raises(UserError, match=r"manifest.jsonl, but a manifest must be a .csv or .tsv"):
        index(root, "word", root)


def test_a_manifest_without_speakers_has_those_of_the_pattern(root: Path) -> None:
    assert read(root, PLAIN, label="speaker", speaker_pattern="(.)")["speaker"].tolist() == list("abcd")


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_unicode_form_and_labels_are_one(root: Path, on_disk: Form, written: Form) -> None:
    name, word = unicodedata.normalize(on_disk, f"caf{E_ACUTE}"), unicodedata.normalize(written, f"caf{E_ACUTE}")
    (root / "a.wav").rename(root / f"{name}.wav")
    table = read(root, f"path,word\n{word}.wav,{name}\nb.wav,{word}\n")
    assert table["path"].tolist() == ["b.wav", f"{name}.wav"]
    assert table["id"].tolist() == ["b.wav", f"caf{E_ACUTE}.wav"] and set(table["word"]) == {f"caf{E_ACUTE}"}
    (root / f"{word}.wav").write_bytes(b"another")
    table = read(root, f"path,word\n{word}.wav,x\n{name}.wav,y\n")
    assert sorted(table["path"]) == sorted(table["id"]) == sorted([f"{name}.wav", f"{word}.wav"])


# ---- lists of ids

FORMS: st.SearchStrategy[Form] = st.sampled_from(["NFC", "NFD"])
SPELT = st.sampled_from(["{}", "{} ", " {}", "./{}", "{}\u200b"])


@settings(max_examples=50)
@given(
    st.lists(
        st.text("ab/\\ .#,\"'é\u0301e", min_size=1, max_size=6).filter(lambda text: text.strip()),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.data(),
)
def test_a_list_of_ids_loses_none(
    tmp_path_factory: pytest.TempPathFactory, known: list[str], data: st.DataObject
) -> None:
    file = tmp_path_factory.getbasetemp() / "ids.txt"
    asked = data.draw(st.lists(st.sampled_from(known), min_size=1))
    end, form = data.draw(st.sampled_from(["\n", "\r\n", "\r"])), data.draw(FORMS)
    file.write_bytes((data.draw(st.sampled_from(["", "\ufeff"])) + end.join(asked) + end).encode())
    assert read_ids(file, known) == list(dict.fromkeys(asked))
    written = [unicodedata.normalize(form, data.draw(SPELT).format(identity)) for identity in asked]
    file.write_text("\n".join(written), encoding="utf-8")
    found = read_ids(file, known)
    expected = []
    for line in written:
        alike = [identity for identity in known if spelling(identity) == spelling(line)]
        expected.append(alike[0] if line not in known and len(alike) == 1 else line)
    assert found == list(dict.fromkeys(expected))


def test_lists_of_ids_are_understood_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known, file = [f"caf{E_ACUTE}/1.wav", "b/2.wav"], tmp_path / "ids.txt"
    file.write_text("cafe\u0301/1.wav \nb\\2.wav\nb/2.wav\nc.wav\n", encoding="utf-8")
    assert read_ids(file, known) == [*known, "c.wav"]
    assert "2 ids are spelt differently" in caplog.text
    file.write_bytes("b/2.wav\r\n".encode("utf-16"))
    assert read_ids(file, known) == ["b/2.wav"]
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git-lfs pointer"):
        read_ids(file, known)
