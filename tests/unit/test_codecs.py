"""Every format that libsndfile can write, and files whose header gives no length or a wrong one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechforget.data.audio import decode as decoding
from speechforget.data.audio import files
from speechforget.data.audio.cache import decode
from speechforget.data.audio.decoded_files import Remembered
from speechforget.data.audio.files import BadSound, read_pcm, read_window
from speechforget.data.audio.headers import mp3_frames
from speechforget.data.batches.sample_sources import Mapped, OnDemand
from speechforget.data.corpora.base import Corpus
from speechforget.errors import UserError

RATE = 16000
SECONDS = {RATE: 0.6, 48000: 0.4}  # by the rate of a file
LONGER = {"OGG": 8, "MP3": 8, "FLAC": 8}  # times: a short file is one page, in which no seek is inexact
OWN_RATE = {"WVE", "XI"}  # these ignore the rate
# For these libsndfile does not compare the length in the header, if there is one: half a file passes as a whole one.
NO_LENGTH = {"IRCAM", "PAF", "PVF", "SD2", "XI", "MAT5", "SDS"}
UNREADABLE = {"RAW": "a .raw file, a format that is not supported"}


def speech(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone under noise: no two windows are equal."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * 440 * time) + np.random.default_rng(0).normal(0, 0.05, len(time))


def formats() -> Iterator[tuple[str, str]]:
    for container in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(container):
            if soundfile.check_format(container, subtype):
                yield container, subtype


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], Path]:
    """A file of each format at two rates, by container, subtype and rate."""
    folder = tmp_path_factory.mktemp("formats")
    found = {}
    for container, subtype in formats():
        for rate, seconds in SECONDS.items():
            path = folder / f"{container}-{subtype}-{rate}.{container.lower()}"
            try:
                soundfile.write(
                    path, speech(seconds * LONGER.get(container, 1), rate), rate, format=container, subtype=subtype
                )
            except soundfile.LibsndfileError:  # libsndfile lists this format but cannot write it
                path.unlink(missing_ok=True)
                continue
            found[container, subtype, rate] = path
    return found


def table_of(paths: list[Path]) -> pd.DataFrame:
    names = [path.name for path in paths]
    return pd.DataFrame({"id": names, "path": names, "subset": "", "word": "a"}, dtype=str).sort_values(
        "id", ignore_index=True
    )


def test_every_format_sounds_the_same_decoded_and_on_demand(
    written: dict[tuple[str, str, int], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = Corpus("test", next(iter(written.values())).parent, table_of(list(written.values())))
    with caplog.at_level(logging.WARNING):
        kept, checked = (decode(corpus, tmp_path, RATE, "skip", kept=each) for each in (True, False))
    pd.testing.assert_frame_equal(kept.table.drop(columns="offset"), checked.table.drop(columns="offset"))
    assert kept.fingerprint == checked.fingerprint
    bad = {path.name for (container, _, _), path in written.items() if container in UNREADABLE}
    assert set(kept.table["id"]) == {path.name for path in written.values()} - bad
    assert all(name in caplog.text for name in bad) and UNREADABLE["RAW"] in caplog.text
    paths, lengths = [corpus.root / name for name in kept.table["path"]], kept.table["samples"].to_numpy()
    assert len(paths) > 150
    for path, length in zip(paths, lengths, strict=True):
        container, _, rate = path.stem.split("-")
        assert container in OWN_RATE or abs(length / RATE - SECONDS[int(rate)] * LONGER.get(container, 1)) < 0.05, (
            path.name
        )
    mapped = Mapped(kept.samples(), kept.table["offset"].to_numpy())
    on_demand = OnDemand(paths.__getitem__, np.zeros(len(paths), np.int64), lengths, RATE)
    codecs = [row for row, path in enumerate(paths) if path.name.split("-")[0] in LONGER]
    rows, generator = np.array([*range(len(paths)), *codecs * 9]), np.random.default_rng(1)
    for count in (100, 1000, 3000):
        first = generator.integers(0, np.maximum(lengths[rows] - count, 1))
        same = (mapped.read(rows, first, count) == on_demand.read(rows, first, count)).all(dim=1).numpy()
        assert same.all(), {paths[row].name for row in rows[~same]}
    for row, path in enumerate(paths):
        assert np.array_equal(
            read_window(path, 0, lengths[row], RATE), kept.samples()[kept.table["offset"][row] :][: lengths[row]]
        ), path.name


def test_half_a_file_of_every_format_is_named(written: dict[tuple[str, str, int], Path], tmp_path: Path) -> None:
    for (container, subtype, rate), path in written.items():
        if container in UNREADABLE or rate != RATE:
            continue
        content = path.read_bytes()
        half = tmp_path / path.name
        half.write_bytes(content[: len(content) // 2])
        if container == "SD2":  # its header is a second file
            shutil.copy(path.with_name(f"._{path.name}"), tmp_path)
        if container in NO_LENGTH:
            continue
        with pytest.raises(BadSound, match=r"truncated|not a sound file"):
            pytest.fail(f"half of {container} {subtype} has {len(read_pcm(half, RATE))} samples")
        assert read_pcm(path, RATE).size


def changed(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


# Files as programs write them to a pipe, without their length; and a file that can only be read from its beginning.
PIPED: dict[str, Callable[[bytes], bytes]] = {
    "zero.wav": lambda content: changed(changed(content, 40, bytes(4)), 4, bytes(4)),
    "all.wav": lambda content: changed(changed(content, 40, b"\xff" * 4), 4, b"\xff" * 4),
    "most.wav": lambda content: changed(content, 40, b"\xff\xff\xff\x7f"),
    "unknown.flac": lambda content: changed(content, 21, bytes([content[21] & 0xF0, 0, 0, 0, 0])),
    "no-seek.flac": lambda content: changed(content, 8, b"\x10\xa0"),  # its smallest block is larger than its largest
    "unknown.au": lambda content: changed(content, 8, b"\xff" * 4),
}


def test_a_stream_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    for name in PIPED:
        check_stream(tmp_path / name, name)


def check_stream(path: Path, name: str) -> None:
    soundfile.write(path, speech(0.5), RATE)
    sized, content = read_pcm(path, RATE), PIPED[name](path.read_bytes())
    path.write_bytes(content)
    assert np.array_equal(read_pcm(path, RATE), sized) and len(sized) == RATE // 2
    for start in (0, 1234, 4095):
        assert np.array_equal(read_window(path, start, 3000, RATE), sized[start : start + 3000])
    path.write_bytes(content[: len(content) // 2])
    if name.endswith("flac"):
        with pytest.raises(BadSound, match="lost sync"):
            read_pcm(path, RATE)
    else:
        assert len(read_pcm(path, RATE)) < len(sized)


def test_a_wav_file_that_is_really_empty_stays_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    content = (tmp_path / "a.wav").read_bytes() + b"LIST\x04\0\0\0INFO"
    (tmp_path / "a.wav").write_bytes(changed(content, 4, (len(content) - 8).to_bytes(4, "little")))
    assert len(read_pcm(tmp_path / "a.wav", RATE)) == 0


def test_an_mp3_without_a_length_is_read_to_its_end_and_half_of_it_is_named(tmp_path: Path) -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        for rate in (8000, 16000, 44100):
            for channels in (1, 2):
                check_mp3(tmp_path, mode, rate, channels)


def check_mp3(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    quiet = speech(2, rate) * np.where(np.arange(2 * rate) < rate, 0.001, 1)  # libsndfile guesses from the first frame
    soundfile.write(
        tmp_path / "a.mp3", np.stack([quiet] * channels, axis=1), rate, bitrate_mode=mode, compression_level=0.5
    )
    content = (tmp_path / "a.mp3").read_bytes()
    whole = read_pcm(tmp_path / "a.mp3", rate)
    frames = mp3_frames(content)
    assert (
        frames is not None
        and frames.stated == frames.samples
        and frames.whole
        and abs(frames.samples - len(whole)) < 4 * 1152
    )
    second = content.index(content[:2], 4)
    tagged = b"ID3\x04\0\0\0\0\x01\x05" + bytes(133) + content[second:] + b"TAG" + bytes(125)
    for name, stream in (("bare", content[second:]), ("tagged", tagged)):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(stream)
        found = read_pcm(path, rate)
        delay = len(found) - len(whole)
        assert 0 <= delay < 4 * 1152, "the encoder's own delay is the only difference"
        assert abs(np.abs(found[-rate // 2 :]).mean() - np.abs(whole[-rate // 2 :]).mean()) < 0.3 * np.abs(whole).mean()
        middle = next(end for end in range(len(stream) // 2, len(stream)) if not mp3_frames(stream[:end]).whole)  # type: ignore[union-attr]
        path.write_bytes(stream[:middle])
        with pytest.raises(BadSound, match="its last frame is incomplete"):
            read_pcm(path, rate)
    between = next(end for end in range(len(content) // 2, len(content)) if mp3_frames(content[:end]).whole)  # type: ignore[union-attr]
    (tmp_path / "a.mp3").write_bytes(content[:between])
    with pytest.raises(BadSound, match=f"the header promises {frames.stated} samples"):
        read_pcm(tmp_path / "a.mp3", rate)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"ID3", b"RIFF\0\0\0\0WAVEdata", b"fLaC", b"OggS", b"NIST_1A", b"\xff\xf3\x88\xc4", b".snd"]),
)
def test_whatever_the_bytes_a_file_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.wav"
    path.write_bytes(start + content)
    (clips,) = decoding.decode_sounds([decoding.Sound(path)], RATE, None, "test")
    assert clips[0].problem or clips[0].samples


def test_an_unforeseen_failure_names_the_file_and_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good.wav", "odd.wav"):
        soundfile.write(tmp_path / name, speech(0.2), RATE)
    read = files._read_on
    failures: list[type[BaseException]] = [ZeroDivisionError]

    def fail(stream: files.Stream) -> np.ndarray:
        if Path(stream.name).name == "odd.wav":
            raise failures[0]("what nobody expected")
        return read(stream)

    monkeypatch.setattr(files, "_read_on", fail)
    corpus = Corpus("test", tmp_path, table_of([tmp_path / "good.wav", tmp_path / "odd.wav"]))
    with pytest.raises(UserError, match=r"odd.wav: .*what nobody expected"):
        decode(corpus, tmp_path / "cache", RATE)
    assert decode(corpus, tmp_path / "cache", RATE, "skip").table["id"].tolist() == ["good.wav"]
    with pytest.raises(UserError, match=r"odd.wav cannot be read \(.*what nobody expected"):
        read_window(tmp_path / "odd.wav", 0, 10, 2 * RATE)
    failures[0] = MemoryError
    with pytest.raises(MemoryError):
        decode(corpus, tmp_path / "other", RATE, "skip")


def test_files_that_are_read_whole_are_remembered_within_bounds(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.ogg" for number in range(4)]
    for path in paths:
        path.write_bytes(b"")
    read: list[str] = []

    def whole(path: Path, sample_rate: int) -> np.ndarray:
        read.append(path.name)
        if path.name == "3.ogg":
            raise BadSound("not a file")
        return np.zeros(100, np.int16)

    remembered = Remembered(250, whole)
    for number in (0, 1, 0, 1, 2, 1, 0):
        assert len(remembered(paths[number], RATE)) == 100
    assert read == ["0.ogg", "1.ogg", "2.ogg", "0.ogg"]
    paths[0].write_bytes(b"changed")
    assert len(remembered(paths[0], RATE)) == 100 and read[-1] == "0.ogg" and len(read) == 5
    for _ in range(2):
        with pytest.raises(BadSound):
            remembered(paths[3], RATE)
    assert read[-2:] == ["3.ogg", "3.ogg"]
    assert remembered._held == 100 * len(remembered._files) == 200
