"""Decoding is exact, happens once, survives races and kills, and names bad files."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechforget.data.audio import cache as audio_module
from speechforget.data.audio.cache import decode
from speechforget.data.audio.files import read_sound, resample, to_pcm
from speechforget.data.corpora.base import Corpus
from speechforget.errors import UserError

RATE = 16000


def tone(hertz: float = 440.0, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def corpus(folder: Path, files: dict[str, bytes | np.ndarray], noise: tuple[str, ...] = ()) -> Corpus:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            soundfile.write(path, content if content.dtype == np.int16 else to_pcm(content), RATE, subtype="PCM_16")
    names = sorted(set(files) - set(noise))
    table = pd.DataFrame({"id": names, "path": names, "subset": "", "word": "a"}, dtype=str)
    return Corpus("test", folder, table, tuple(folder / name for name in noise))


def heard(audio: audio_module.Audio, row: int) -> np.ndarray:
    return audio.samples()[audio.table["offset"][row] : audio.table["offset"][row] + audio.table["samples"][row]]


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_sixteen_bit_samples_come_through_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sounds = {
        f"a/{i}.{suffix}": rng.integers(-32768, 32767, 800 + i, dtype=np.int16)
        for i, suffix in enumerate(["wav", "flac", "wav"])
    }
    audio = decode(corpus(tmp_path / "root", sounds), tmp_path / "cache", RATE)
    assert audio.samples().dtype == np.int16
    assert audio.table["id"].tolist() == sorted(sounds)
    for row, name in enumerate(sorted(sounds)):
        assert np.array_equal(heard(audio, row), sounds[name])
        assert audio.table["sha1"][row] == hashlib.sha1(sounds[name].tobytes()).hexdigest()
        assert audio.table["seconds"][row] == len(sounds[name]) / RATE


def test_what_comes_back_does_not_depend_on_the_number_of_files(tmp_path: Path) -> None:
    many = {f"a/{i:03}.wav": tone(200 + i, 0.02 + i / 5000) for i in range(100)}
    audio = decode(corpus(tmp_path / "root", many), tmp_path / "cache", RATE)
    for row in range(100):
        assert np.array_equal(heard(audio, row), to_pcm(tone(200 + row, 0.02 + row / 5000)))
    assert len(audio.samples()) == audio.table["samples"].sum()


def test_the_second_call_decodes_nothing_and_the_file_is_what_counts(tmp_path: Path, monkeypatch) -> None:
    made = corpus(tmp_path / "root", {"a/1.wav": tone(), "a/2.wav": tone(500)})
    first = decode(made, tmp_path / "cache", RATE)
    monkeypatch.setattr(audio_module, "decode_sounds", no_decoding)
    second = decode(made, tmp_path / "cache", RATE)
    assert second.fingerprint == first.fingerprint
    pd.testing.assert_frame_equal(second.table, first.table)
    path = tmp_path / "root" / "a" / "1.wav"
    size = path.stat().st_size
    soundfile.write(path, tone(441), RATE, subtype="PCM_16")
    os.utime(path, ns=(0, 12345))
    assert path.stat().st_size == size
    with pytest.raises(AssertionError, match="decoded again"):
        decode(made, tmp_path / "cache", RATE)


def test_the_fingerprint_is_of_bytes_and_table_not_of_place_and_time(tmp_path: Path) -> None:
    files = {"a/1.wav": tone(), "a/2.wav": tone(500), "n.wav": tone(50)}
    made = [corpus(tmp_path / name, files, noise=("n.wav",)) for name in ("here", "there")]
    os.utime(tmp_path / "there" / "a" / "1.wav", ns=(0, 1))
    here, there = (decode(each, tmp_path / "cache", RATE) for each in made)
    assert here.fingerprint == there.fingerprint
    prints = {here.fingerprint}
    other_word = Corpus("test", made[0].root, made[0].table.assign(word=["a", "b"]), made[0].noise)
    prints.add(decode(other_word, tmp_path / "cache", RATE).fingerprint)
    prints.add(decode(made[0], tmp_path / "cache", 8000).fingerprint)
    for name in ("a/2.wav", "n.wav"):
        prints.add(
            decode(
                corpus(tmp_path / f"with other {name[-5:]}", {**files, name: tone(60)}, noise=("n.wav",)),
                tmp_path / "cache",
                RATE,
            ).fingerprint
        )
    assert len(prints) == 5


def test_windows_of_a_long_recording(tmp_path: Path) -> None:
    long = tone(440, 3)
    base = corpus(tmp_path / "root", {"long.wav": long, "short.wav": tone()})
    rows = [
        {"id": "long.wav@2.5", "path": "long.wav", "start": 2.5, "seconds": np.nan},
        {"id": "long.wav@0.25", "path": "long.wav", "start": 0.25, "seconds": 1.0},
        {"id": "short.wav", "path": "short.wav", "start": 0.0, "seconds": np.nan},
        {"id": "long.wav@2.9", "path": "long.wav", "start": 2.9, "seconds": 1.0},
    ]
    table = pd.DataFrame(rows).assign(subset="", word="a").sort_values("id", ignore_index=True)
    windows = Corpus("test", base.root, table)
    with pytest.raises(UserError, match=r"long.wav@2.9: shorter \(3 s\) than its window"):
        decode(windows, tmp_path / "cache", RATE)
    audio = decode(windows, tmp_path / "cache", RATE, "skip")
    expected = {
        "long.wav@0.25": to_pcm(long[4000:20000]),
        "long.wav@2.5": to_pcm(long[40000:]),
        "short.wav": to_pcm(tone()),
    }
    assert audio.table["id"].tolist() == list(expected)
    for row, samples in enumerate(expected.values()):
        assert np.array_equal(heard(audio, row), samples)


def test_noise_is_decoded_beside_the_speech(tmp_path: Path) -> None:
    audio = decode(
        corpus(tmp_path / "root", {"a/1.wav": tone(), "n/hum.wav": tone(50, 2)}, noise=("n/hum.wav",)),
        tmp_path / "cache",
        RATE,
    )
    assert audio.noise["path"].tolist() == ["n/hum.wav"]
    offset, samples = audio.noise["offset"][0], audio.noise["samples"][0]
    assert np.array_equal(audio.samples()[offset : offset + samples], to_pcm(tone(50, 2)))


def test_any_format_rate_and_number_of_channels(tmp_path: Path) -> None:
    root, sound = tmp_path / "root", {rate: tone(440, 1, rate) for rate in (8000, 16000, 44100)}
    root.mkdir()
    for suffix in ("wav", "flac", "ogg", "mp3"):
        for rate, channels in ((8000, 2), (44100, 1), (16000, 2)):
            both = np.stack([sound[rate] * 1.5, sound[rate] * 0.5], axis=1)
            soundfile.write(root / f"{rate}.{suffix}", both if channels == 2 else sound[rate], rate)
    names = sorted(path.name for path in root.iterdir())
    table = pd.DataFrame({"id": names, "path": names, "subset": "", "word": "a"})
    audio = decode(Corpus("test", root, table), tmp_path / "cache", RATE)
    for row, name in enumerate(names):
        samples = heard(audio, row) / 32768
        assert abs(len(samples) - RATE) < RATE * 0.15, name
        middle = samples[4000:12000]
        assert abs(np.sqrt(2 * np.mean(middle**2)) - 0.5) < 0.03, name
        assert abs(np.argmax(np.abs(np.fft.rfft(middle))) * 2 - 440) <= 4, name


def test_float_samples_saturate_and_integers_in_floats_are_refused(tmp_path: Path) -> None:
    assert to_pcm(np.array([1.5, -1.5, 1.0, -1.0, 0.0, 1 / 32768])).tolist() == [32767, -32768, 32767, -32768, 0, 1]
    soundfile.write(tmp_path / "int.wav", tone() * 30000, RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"int.wav cannot be used: out of range"):
        read_sound(tmp_path / "int.wav")


def test_read_sound_and_resample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(rate=8000), 8000)
    samples, rate = read_sound(tmp_path / "a.wav")
    assert (samples.dtype, rate, len(samples)) == (np.float32, 8000, 4000)
    assert len(resample(samples, rate, RATE)) == 8000
    with pytest.raises(UserError, match="cannot be read"):
        read_sound(tmp_path / "nothing.wav")


def wav(samples: np.ndarray, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


BAD = {
    "empty.wav": (b"", "zero bytes"),
    "text.flac": (b"hello", "not a sound file"),
    "cut.wav": (wav(tone())[:5001], "truncated"),
    "header.wav": (wav(tone())[:20], "not a sound file"),
    "one.wav": (wav(tone()[:1]), r"too short \(1 sample\)"),
    "slow.wav": (wav(tone())[:24] + b"\x03\0\0\0" + wav(tone())[28:], "its sample rate is 3 Hz"),
    "offset.au": (
        b".snd\0\0\0\7\0\0\x1f@\0\0\0\1\0\0>\x80\0\0\0\1" + bytes(range(200)) * 40,
        "differ from those of the whole file",
    ),
    "none.wav": (wav(tone()[:0]), r"too short \(0 samples\)"),
    "silent.wav": (wav(np.zeros(16000)), "silent"),
    "constant.wav": (wav(np.full(16000, 0.1)), "silent"),
    "nan.wav": (wav(np.where(np.arange(8000) % 100, tone(), np.nan), "FLOAT"), "80 samples are NaN"),
    "infinite.wav": (wav(np.where(np.arange(8000) % 100, tone(), np.inf), "DOUBLE"), "80 samples are NaN or infinite"),
}


def test_all_bad_files_are_named_with_their_reasons_and_can_be_left_out(tmp_path: Path, caplog) -> None:
    made = corpus(tmp_path / "root", {"good.wav": tone(), **{name: content for name, (content, _) in BAD.items()}})
    with pytest.raises(UserError) as caught:
        decode(made, tmp_path / "cache", RATE)
    for name, (_, reason) in BAD.items():
        assert re.search(f"  {name}: .*{reason}", str(caught.value)), name
    assert "good.wav" not in str(caught.value)
    assert "on_bad_audio=skip" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        audio = decode(made, tmp_path / "cache", RATE, "skip")
    assert audio.table["id"].tolist() == ["good.wav"] and set(audio.unusable) == set(BAD)
    assert all(name in caplog.text for name in BAD)
    good = decode(corpus(tmp_path / "other", {"good.wav": tone()}), tmp_path / "cache", RATE)
    assert audio.fingerprint == good.fingerprint


def test_hundreds_of_bad_files_are_listed_in_a_file(tmp_path: Path) -> None:
    made = corpus(tmp_path / "root", {f"{i:03}.wav": b"" for i in range(120)})
    with pytest.raises(UserError, match=r"bad\.txt") as caught:
        decode(made, tmp_path / "cache", RATE)
    assert len(str(caught.value).splitlines()) < 60
    [path] = (tmp_path / "cache").rglob("bad.txt")
    assert len(path.read_text().splitlines()) == 120
    assert "bad.txt" in json.loads((path.parent / "DONE").read_text())["files"], "written before the cache is finished"
    with pytest.raises(UserError, match="none of the recordings"):
        decode(made, tmp_path / "cache", RATE, "skip")


def test_missing_and_unreadable_files_and_pipes(tmp_path: Path, monkeypatch) -> None:
    made = corpus(tmp_path / "root", {"good.wav": tone(), "gone.wav": tone(), "locked.wav": tone(), "pipe.wav": tone()})
    (made.root / "gone.wav").unlink()
    (made.root / "pipe.wav").unlink()
    os.mkfifo(made.root / "pipe.wav")
    really_open = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "locked.wav":
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError) as caught:
        decode(made, tmp_path / "cache", RATE)
    assert "gone.wav: cannot be read (No such file" in str(caught.value)
    assert "locked.wav: cannot be read (Permission denied" in str(caught.value)
    assert "pipe.wav: not a file" in str(caught.value)


PROGRAM = """
import sys, time
from pathlib import Path
import pandas as pd
from speechforget.data.audio import decode as module
from speechforget.data.audio.cache import decode
from speechforget.data.corpora.base import Corpus
root, cache, slow = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
read_pcm = module.read_pcm
module.read_pcm = lambda path, rate: (path.name == slow and time.sleep(300)) or read_pcm(path, rate)
names = sorted(path.name for path in root.iterdir())
table = pd.DataFrame({"id": names, "path": names, "subset": "", "word": "a"}, dtype=str)
print(decode(Corpus("test", root, table), cache, 16000).fingerprint)
"""


def start(root: Path, cache: Path, slow: str = "") -> subprocess.Popen[str]:
    """Decode in another process, which stops at the recording `slow`."""
    line = [sys.executable, "-c", PROGRAM, str(root), str(cache), slow]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def test_two_processes_decode_once(tmp_path: Path) -> None:
    corpus(tmp_path / "root", {f"{i:03}.wav": tone(200 + i) for i in range(150)})
    racers = [start(tmp_path / "root", tmp_path / "cache") for _ in range(2)]
    answers = {racer.communicate(timeout=300)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(answers) == 1
    assert len(list((tmp_path / "cache" / "audio").glob("*/DONE"))) == 1


def test_a_killed_process_leaves_nothing_behind_that_is_used(tmp_path: Path) -> None:
    made = corpus(tmp_path / "root", {f"{i:02}.wav": tone(200 + i, 0.1) for i in range(40)})
    victim = start(tmp_path / "root", tmp_path / "cache", slow="39.wav")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cache").rglob("samples.npy")) and time.monotonic() < deadline:
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert list((tmp_path / "cache").rglob("samples.npy")) and not list((tmp_path / "cache").rglob("DONE"))
    audio = decode(made, tmp_path / "cache", RATE)
    for row in (0, 20, 39):
        assert np.array_equal(heard(audio, row), to_pcm(tone(200 + row, 0.1)))


def test_a_wrong_mode_and_a_cache_that_is_a_file(tmp_path: Path) -> None:
    made = corpus(tmp_path / "root", {"good.wav": tone()})
    with pytest.raises(UserError, match="choose error or skip"):
        decode(made, tmp_path / "cache", RATE, "ignore")
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        decode(made, tmp_path / "cache", RATE)
