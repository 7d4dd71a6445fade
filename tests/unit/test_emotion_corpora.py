"""CREMA-D and RAVDESS: emotions of new speakers, speakers on new recordings, and the published counts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.made_corpora import MakeCorpus, index

from speechforget.data.corpora import crema_d, librispeech, ravdess
from speechforget.errors import UserError


@pytest.mark.parametrize("name", ["crema_d", "ravdess"])
def test_emotions_are_tested_on_unheard_speakers_and_speakers_on_unheard_recordings(
    name: str, make_corpus: MakeCorpus
) -> None:
    root = make_corpus(name)
    emotion = index(name, root).table
    assert (emotion.groupby("speaker")["subset"].nunique() == 1).all()
    assert emotion.loc[emotion["subset"] == "test", "speaker"].nunique() == 1
    speaker = index(name, root, "speaker").table
    shares = speaker.groupby("speaker")["subset"].apply(lambda subsets: (subsets == "test").mean())
    assert shares.between(0.01, 0.6).all()  # 24 recordings a speaker
    assert len({tuple(index(name, root, seed=seed).table["subset"]) for seed in range(8)}) > 1
    with pytest.raises(UserError, match="between 0 and 1"):
        index(name, root, test=1)


def test_crema_d_knows_the_slips_of_its_corpus(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = make_corpus("crema_d")
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


def test_ravdess_in_the_archives_folder_and_beside_a_copy_of_itself(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    root = make_corpus("ravdess")
    table = index("ravdess", root).table
    assert table.groupby("speaker")["gender"].first().to_dict() == {"01": "male", "02": "female", "03": "male"}
    assert table["emotion"].value_counts().to_dict() == {**dict.fromkeys(ravdess.EMOTIONS, 24), "neutral": 12}
    (tmp_path / "top").mkdir()
    root.rename(tmp_path / "top" / "audio_speech_actors_01-24")
    assert index("ravdess", tmp_path / "top").table.equals(table)


def test_what_is_published_agrees_with_the_papers() -> None:
    assert len(ravdess.published()) == 1440
    assert len(crema_d.USUAL) == 91
    assert sum(crema_d.USUAL.values()) == crema_d.PUBLISHED + 20
    assert librispeech.PUBLISHED["train-clean-100"] == (28539, 251)
