"""The search for recordings finds every id and every piece of samples that is there, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechforget.record import needles
from speechforget.record.needles import PIECE, Needles, piece_of

IDS = ["stop/anna_1.wav", "stop/anna_12.wav", "stop/anna.flac", "grün/jörg 1.wav", 'a "quoted", id.wav']


def test_an_id_is_found_as_text_json_and_csv_write_it(tmp_path: Path) -> None:
    for number, each in enumerate(IDS):
        forms = [each, json.dumps([each]), f'1,"{each.replace(chr(34), chr(34) * 2)}",x', f"/home/me/{each}\n"]
        for place, form in enumerate(forms):
            (tmp_path / f"{number}-{place}").write_text(form, encoding="utf-8")
    found = Needles(IDS).search(tmp_path)
    assert len(found.paths) == found.files == 4 * len(IDS)
    assert found.size == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("text", ["stop/anna_1.wavs", "nonstop/anna_1.wav", "stop/anna_13.wav", "stop/anna_", ""])
def test_other_ids_are_not_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert Needles(IDS).search(tmp_path).paths == []


@given(st.lists(st.text("ab/.é", min_size=6, max_size=9), min_size=1, max_size=8, unique=True), st.data())
def test_one_expression_finds_what_each_id_alone_finds(tmp_path_factory, ids: list[str], data: st.DataObject) -> None:
    text = data.draw(st.text("ab/.é,", max_size=30) | st.sampled_from(ids).map(lambda each: f",{each},"))
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_text(f"{text}\n", encoding="utf-8")
    assert Needles(ids).inside(path) == any(Needles([each]).inside(path) for each in ids)


def test_ids_that_are_everywhere_are_not_searched_for() -> None:
    assert Needles(["17", "1234567", "a.wav", "anna.wav"]).searchable == ["anna.wav"]


@pytest.mark.parametrize("before", [0, 1, 44, 2 * PIECE - 1, 1000, 1023])
def test_a_piece_is_found_at_any_byte(tmp_path: Path, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needles, "CHUNK", 1024)
    draw = np.random.default_rng(before)
    recording, other = (draw.integers(-9000, 9000, 400).astype(np.int16) for _ in range(2))
    found = Needles([], [piece_of(recording), piece_of(draw.integers(-9000, 9000, 400).astype(np.int16))])
    noise = draw.bytes(before)
    (tmp_path / "copy.npy").write_bytes(noise + recording.tobytes() + noise)
    (tmp_path / "other.npy").write_bytes(noise + other.tobytes() + noise)
    (tmp_path / "empty").touch()
    assert found.search(tmp_path).paths == [tmp_path / "copy.npy"]
    assert found.search(tmp_path, skip=[tmp_path / "copy.npy"]).paths == []


def test_sounds_that_a_tracker_keeps_are_found_whosever_they_are(tmp_path: Path) -> None:
    wav = b"RIFF\x24\x00\x00\x00WAVEfmt "
    kept = [tmp_path / "wandb" / place / "sound" for place in ("staging/a", "offline-run-1-x/files", "run-1-x/files")]
    for path in [*kept, tmp_path / "wandb" / "other" / "sound"]:
        path.parent.mkdir(parents=True)
        path.write_bytes(wav)
    kept[0].with_name("table").write_bytes(b"RIFF of something else")
    assert Needles([]).search(tmp_path).paths == sorted(kept)


def test_silence_has_no_piece() -> None:
    assert (
        piece_of(np.zeros(1000, dtype=np.int16)) is None and piece_of(np.full(PIECE - 1, 900, dtype=np.int16)) is None
    )
    loud = np.zeros(1000, dtype=np.int16)
    loud[500] = -32768
    assert piece_of(loud) == loud[500 : 500 + PIECE].tobytes()
