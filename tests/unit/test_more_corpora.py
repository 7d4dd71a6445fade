"""Corpora with their own lists and layouts: complete, with missing, renamed or unlisted files, and in other folders."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from support.made_corpora import CONF, NAMES, SAMPLE, MakeCorpus, index, sound

from speechforget.data.audio.cache import decode
from speechforget.data.requests.select import select
from speechforget.data.split import split
from speechforget.errors import UserError

REQUESTS = {
    "voxceleb1": ("video", 80, {"speaker", "video", "gender", "nationality"}),
    "librispeech": ("chapter", 114, {"speaker", "chapter", "part", "gender"}),
    "fluent_speech_commands": (
        "speaker",
        96,
        {"intent", "action", "object", "location", "speaker", "transcription", "gender", "age"},
    ),
    "slurp": ("gender", 192, {"intent", "scenario", "action", "sentence", "speaker", "gender", "native", "microphone"}),
    "crema_d": ("gender", 120, {"speaker", "sentence", "emotion", "level", "gender", "age", "race", "ethnicity"}),
    "ravdess": ("gender", 180, {"speaker", "gender", "emotion", "intensity", "statement", "repetition"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_complete_corpus_is_decoded_split_and_asked_about(
    name: str, make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by, count, columns = REQUESTS[name]
    corpus = index(name, make_corpus(name))
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
def test_roots_and_labels_that_do_not_fit_say_why(name: str, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.root=FOLDER"):
        index(name, None)
    with pytest.raises(UserError, match="is not a folder"):
        index(name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"set dataset.root|cannot be read|is not LibriSpeech"):
        index(name, tmp_path / "empty")
    with pytest.raises(UserError, match=f"dataset.label is 'word', which {name} does not have: there are "):
        index(name, make_corpus(name), "word")


@pytest.mark.parametrize("name", NAMES)
def test_missing_recordings_are_named_and_can_be_done_without(
    name: str, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus(name)
    whole = index(name, root)
    gone = whole.table["path"].iloc[[0, 3]]
    for path in gone:
        (whole.root / path).unlink()
    with pytest.raises(
        UserError, match=r"2 of \d+ (listed )?recordings are missing.*dataset.corpus.complete=false"
    ) as caught:
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
def test_a_renamed_recording_is_shown_beside_the_missing_one(name: str, make_corpus: MakeCorpus) -> None:
    root = make_corpus(name)
    corpus = index(name, root)
    path = corpus.root / corpus.table["path"].iloc[0]
    path.rename(path.with_name(f"03-01-copy{path.suffix}"))
    with pytest.raises(UserError, match=r"1 of \d+ (listed )?recordings are missing") as caught:
        index(name, root)
    if name != "librispeech":
        assert f"03-01-copy{path.suffix}" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_recordings_that_no_list_names_are_left_out(
    name: str, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus(name)
    corpus = index(name, root)
    extra = (corpus.root / corpus.table["path"].iloc[0]).with_name("03-01-extra.wav")
    sound(extra)
    caplog.clear()
    assert index(name, root).table["id"].tolist() == corpus.table["id"].tolist()
    assert [record for record in caplog.records if record.levelno == logging.WARNING]
