"""The column text, of lists of corpora, of manifests, and of files beside recordings; only where it is the label."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from support.made_corpora import MakeCorpus, index, sound

from speechforget.data.corpora import folder
from speechforget.errors import UserError

E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.parametrize(
    ("name", "text"),
    [("librispeech", "SOME WORDS"), ("fluent_speech_commands", "Turn it, please"), ("slurp", "wake me")],
)
def test_text_is_a_column_where_it_is_the_label(name: str, text: str, make_corpus: MakeCorpus) -> None:
    root = make_corpus(name)
    usual, found = index(name, root).table, index(name, root, "text").table
    assert "text" not in usual
    assert set(found["text"]) == {text}
    assert set(found["id"]) == set(usual["id"])
    assert set(found["subset"]) >= {"test"}
    assert (found.groupby("speaker")["subset"].nunique() == 1).all()


def test_librispeech_names_recordings_that_no_transcript_has(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus("librispeech")
    transcript = root / "LibriSpeech/train-clean-100/11/100/11-100.trans.txt"
    transcript.write_text("11-100-0000 MISTER  QUILTER'S\n11-100-0001\n\n11-100-0002 GO\r\n")
    with pytest.raises(UserError, match=r"2 of 114 recordings have no text .*11/100/11-100-0001.flac, .*0003.flac"):
        index("librispeech", root, "text")
    found = index("librispeech", root, "text", complete=False).table.set_index("id")["text"]
    assert found["train-clean-100/11/100/11-100-0000.flac"] == "MISTER QUILTER'S"
    assert found["train-clean-100/11/100/11-100-0002.flac"] == "GO"
    assert (found == "").sum() == 2
    assert "2 of 114 recordings have no text" in caplog.text
    index("librispeech", root)
    transcript.write_bytes(b"11-100-0000 \xff\n")
    with pytest.raises(UserError, match=r"11-100.trans.txt cannot be read"):
        index("librispeech", root, "text")
    transcript.write_text("11-100-0000 GO\n11-100-0000 STOP\n")
    with pytest.raises(UserError, match=r"contradict each other about 1 file: .*with text 'GO' and with"):
        index("librispeech", root, "text")


def test_slurp_leaves_out_recordings_with_two_sentences(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus("slurp")
    lines = root / "dataset" / "slurp" / "train.jsonl"
    entry = json.loads(lines.read_text().splitlines()[0])
    again = {**entry, "sentence": "wake them", "recordings": entry["recordings"][:1]}
    lines.write_text(f"{lines.read_text()}\n{json.dumps(again)}")
    assert len(index("slurp", root).table) == 192
    assert len(index("slurp", root, "text").table) == 191
    assert "1 recordings are listed under different intents or as two sentences" in caplog.text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(10):
        sound(tmp_path / f"{number}.wav")
    return tmp_path


def read(root: Path, **options: object) -> pd.DataFrame:
    return folder.index(root, "text", root / "cache", **options).table  # type: ignore[arg-type]


def written(root: Path, texts: list[str], name: str = "manifest.csv", column: str = "text", comma: str = ",") -> None:
    lines = [f"path{comma}{column}", *(f"{number}.wav{comma}{text}" for number, text in enumerate(texts))]
    (root / name).write_text("\n".join(lines), encoding="utf-8")


def test_a_manifest_gives_any_transcript(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    texts = ['"Stop, ""now""!"', f"caf{E_ACUTE}", "", "go", "go", "GO", '""', "a\u2028b", "nan", "12"]
    written(root, texts)
    assert read(root)["text"].tolist() == [
        'Stop, "now"!',
        f"caf{E_ACUTE}",
        "",
        "go",
        "go",
        "GO",
        "",
        "a\u2028b",
        "nan",
        "12",
    ]
    assert "2 of 10 recordings have no text and are not used: 2.wav, 6.wav" in caplog.text
    assert "differ only in case" not in caplog.text
    assert "7 texts (2 utterances have none)" in caplog.text


def test_a_share_of_the_recordings_tests_though_no_two_have_one_text(root: Path) -> None:
    written(root, [f"number {number}" for number in range(10)])
    assert read(root, test=0.5)["subset"].value_counts().to_dict().keys() == {"test", "train"}
    assert {read(root, test=0.5, seed=seed)["subset"].eq("test").sum() for seed in range(6)} <= set(range(1, 10))


@pytest.mark.parametrize(
    ("name", "column", "comma"),
    [("manifest.csv", "Text", ";"), ("manifest.tsv", "sentence", "\t"), ("manifest.csv", "Transcript", ",")],
)
def test_usual_names_of_the_column_are_read_with_a_note(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, column: str, comma: str
) -> None:
    written(root, ['"go"' if comma == "\t" else "go", *["stop it"] * 9], name, column, comma)
    assert read(root)["text"].tolist()[1:] == ["stop it"] * 9
    assert read(root)["text"].tolist()[0] == ('"go"' if comma == "\t" else "go")
    assert f"column '{column}' is read as 'text'" in caplog.text


def test_manifests_whose_transcripts_are_unclear_say_why(root: Path) -> None:
    written(root, ['"go\non"', *["stop"] * 9])
    with pytest.raises(UserError, match=r"line 2: a quotation mark does not end.*without line breaks"):
        read(root)
    written(root, ["go, on", *["stop"] * 9])
    with pytest.raises(UserError, match="line 2: the line has 3 fields"):
        read(root)
    written(root, ["go,on"] * 10, column="transcript,sentence")
    with pytest.raises(UserError, match=r"no column 'text'.*from files beside the recordings"):
        read(root)


def test_transcripts_are_read_from_files_beside_recordings(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sounds = [f"{number}" for number in range(10)]
    for name in sounds[:8]:
        (root / f"{name}.{'txt' if name < '4' else 'lab'}").write_text(f" Say\n\n{name} \n", encoding="utf-8")
    (root / "8.txt").write_text("")
    (root / "readme.txt").write_text("about")
    found = read(root)
    assert found["text"].tolist() == [*(f"Say {name}" for name in sounds[:8]), "", ""]
    assert found.columns.tolist() == ["id", "path", "subset", "text"]
    assert "2 of 10 recordings have no text and are not used: 8.wav, 9.wav" in caplog.text
    assert "read 10 of 20 files, 8 texts (2 utterances have none), transcripts: 9; ignored: 1 not sound" in caplog.text


def test_folders_around_transcripts_are_speakers(tmp_path: Path) -> None:
    for path in ("anna/1", "anna/2", "ben/1", "ben/2"):
        sound(tmp_path / f"{path}.wav")
        (tmp_path / f"{path}.LAB").write_text("go", encoding="utf-16")
    found = read(tmp_path)
    assert found["speaker"].tolist() == ["anna", "anna", "ben", "ben"]
    assert set(found["text"]) == {"go"}
    assert read(tmp_path, speaker_pattern="(.)")["speaker"].tolist() == ["1", "2", "1", "2"]
    assert "text" not in folder.index(tmp_path, "word", tmp_path / "cache").table


def test_files_beside_recordings_that_are_unclear_say_why(root: Path) -> None:
    with pytest.raises(UserError, match=r"no recording with a transcript. Put the transcript of name.wav"):
        read(root)
    (root / "1.txt").write_text("go")
    (root / "1.lab").write_text("go")
    with pytest.raises(UserError, match=r"1.wav has more than one transcript \(1.lab, 1.txt\): keep one"):
        read(root)
    (root / "1.txt").unlink()
    (root / "1.lab").write_text("0 3100000 sil\n3100000 5200000 g\n")
    with pytest.raises(UserError, match="labels with times instead of a text"):
        read(root)
    (root / "1.lab").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"1.lab cannot be read .*in UTF-8"):
        read(root)
    (root / "1.lab").write_text("10 20 go")
    assert read(root)["text"].tolist()[1] == "10 20 go"
