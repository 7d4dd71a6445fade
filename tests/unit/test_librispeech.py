"""LibriSpeech: whole chapters test, missing recordings are named, and a download is optional."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.made_corpora import MakeCorpus, index, make_librispeech

from speechforget._torchaudio import torchaudio
from speechforget.errors import UserError
from speechforget.store.dry_run import NotMadeError, dry_run


def test_librispeech_tests_whole_chapters_and_trains_on_every_speaker(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = make_corpus("librispeech")
    tables = [
        index("librispeech", root, test=test, seed=seed).table for test in (0.1, 0.2, 0.5, 0.9) for seed in (0, 1)
    ]
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


def test_librispeech_that_lacks_speakers_chapters_or_files(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus("librispeech")
    top = root / "LibriSpeech" / "train-clean-100"
    (top / "12").rename(root / "12")
    with pytest.raises(UserError, match="22 of 114 recordings are missing: speaker 12 has none"):
        index("librispeech", root)
    (root / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    with pytest.raises(UserError, match=r"22 of 114 recordings are missing\. To fix this: download"):
        index("librispeech", root)
    assert "gender" not in index("librispeech", root, complete=False).table
    assert "has 5 speakers, but 6 are published" in caplog.text


def test_librispeech_options_without_sense_say_why(make_corpus: MakeCorpus) -> None:
    root = make_corpus("librispeech")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"subsets": ["train-clean-10"]}, "train-clean-10 .*did you mean 'train-clean-100'"),
        ({"subsets": "train-clean-100"}, "give a list"),
        ({"test": 0}, "between 0 and 1"),
        ({"test": 0.001}, "no chapter can test"),
    ]
    for options, words in cases:
        with pytest.raises(UserError, match=words):
            index("librispeech", root, **options)


@pytest.mark.usefixtures("few_published")
def test_librispeech_is_fetched_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchaudio.datasets, "LIBRISPEECH", unreachable)
    with pytest.raises(UserError, match=r"no route to host.*openslr"):
        index("librispeech", tmp_path / "new", download=True)
    with dry_run(), pytest.raises(NotMadeError):
        index("librispeech", tmp_path / "new", download=True)
    monkeypatch.setattr(torchaudio.datasets, "LIBRISPEECH", lambda root, url, download: make_librispeech(Path(root)))
    assert len(index("librispeech", tmp_path / "new", download=True).table) == 114
