"""Fluent Speech Commands and SLURP: intents, disjoint speakers, and contradictory lists."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.made_corpora import MakeCorpus, index

from speechforget.errors import UserError


def test_fluent_speech_commands_intents_and_speakers(make_corpus: MakeCorpus) -> None:
    root = make_corpus("fluent_speech_commands")
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


def test_slurp_splits(make_corpus: MakeCorpus) -> None:
    root = make_corpus("slurp")
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


def test_slurp_recordings_that_the_lists_disagree_about_are_left_out(
    make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_corpus("slurp")
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
    (place / "devel.jsonl").write_text(
        (place / "devel.jsonl").read_text() + "\n" + json.dumps({**entries[2], "slurp_id": 0})
    )
    assert len(index("slurp", root, split="official").table) == 182
    assert len(index("slurp", root).table) == 190


def test_slurp_without_speakers(make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture) -> None:
    root = make_corpus("slurp")
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


def test_slurp_options_without_sense_say_why(make_corpus: MakeCorpus) -> None:
    root = make_corpus("slurp")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"split": "random"}, "speaker or official"),
        ({"microphone": "near"}, "headset or distant"),
        ({"test": 0.5, "validation": 0.5}, "leave recordings to train on"),
        ({"label": "speaker"}, "keeps speakers apart"),
    ]
    for options, words in cases:
        with pytest.raises(UserError, match=words):
            index("slurp", root, **options)
    assert len(index("slurp", root, label="speaker", split="official", complete=True, test=5).table) == 192


def test_lines_of_slurp_that_are_no_entries(make_corpus: MakeCorpus) -> None:
    root = make_corpus("slurp")
    path = root / "dataset" / "slurp" / "test.jsonl"
    for text, words in (('{"intent": "a"}', "Line 1 of .* is not an entry"), ("{", "cannot be read")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            index("slurp", root)
